"""The formats that `load_transcoder` knows, one line each, and which of them a folder or file is."""

from pathlib import Path

from sae_lens.saes.transcoder import Transcoder

from faithfulness_plugin.transcoders.formats import (
    circuit_tracer,
    clt_training,
    cross_layer,
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    llamascopium,
    sae_lens,
    sparsify,
    transcoder_circuits,
)
from faithfulness_plugin.transcoders.formats.format import Format, Likeness, Request
from faithfulness_plugin.transcoders.formats.inside import transcoders_inside
from faithfulness_plugin.transcoders.formats.rule import FormatError

FORMATS: tuple[Format, ...] = (
    sae_lens.FORMAT,
    clt_training.FORMAT,
    sparsify.FORMAT,
    dictionary_learning.FORMAT,
    circuit_tracer.FORMAT,
    cross_layer.FORMAT,
    gemma_scope.FORMAT,
    gemma_scope_2.FORMAT,
    transcoder_circuits.FORMAT,
    llamascopium.FORMAT,
)
"""The first of the formats that a folder resembles equally reads it."""


def read(path: Path, request: Request) -> Transcoder:
    """The transcoder in a folder or file, by the format that it resembles most.

    Raises:
        FormatError: nothing there that is known; what it resembles and what is missing or wrong; the transcoders in
            its folders, where it has several.
    """
    if not path.exists():
        raise FormatError(f"{path} does not exist: pass the folder that a transcoder was saved to, or an address")
    alike = {one: one.likeness(path) for one in FORMATS}
    best = max(alike.values())
    of_best = [one for one in FORMATS if alike[one] == best]
    if best >= Likeness.WEIGHTS:
        return of_best[0].read(path, request)
    if path.is_dir() and (inside := transcoders_inside(path, FORMATS)):
        listed = ", ".join(inside[:8]) + ", ..." * (len(inside) > 8)
        raise FormatError(f"{path} is not one transcoder, and holds {listed}: pass one of these in it")
    if best == Likeness.SETTINGS:
        titles = " or ".join(one.title for one in of_best)
        lacks = " or ".join(dict.fromkeys(one.writes.rpartition(" and ")[2] for one in of_best))
        raise FormatError(f"{path} has the settings of {titles}, and lacks {lacks}: copy that there, too")
    known = "; ".join(f"{one.title} has {one.writes}" for one in FORMATS)
    if path.is_file():
        raise FormatError(f"{path} is none of the files that are known here, or is damaged: {known}")
    here = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "it is empty"
    raise FormatError(f"{path} holds no transcoder that is known here ({here}): {known}")
