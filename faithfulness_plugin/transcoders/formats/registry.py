"""The formats that `load_transcoder` knows, one line each, and which of them a folder or file is."""

import os
import re
from pathlib import Path

from sae_lens.saes.transcoder import Transcoder

from faithfulness_plugin.messages import listed
from faithfulness_plugin.transcoders.formats.circuit_tracer import CircuitTracer
from faithfulness_plugin.transcoders.formats.clt_training import CltTraining
from faithfulness_plugin.transcoders.formats.cross_layer import CrossLayer
from faithfulness_plugin.transcoders.formats.dictionary_learning import DictionaryLearning
from faithfulness_plugin.transcoders.formats.errors import FormatError
from faithfulness_plugin.transcoders.formats.format import Format, Likeness
from faithfulness_plugin.transcoders.formats.gemma_scope import GemmaScope
from faithfulness_plugin.transcoders.formats.gemma_scope_2 import GemmaScope2
from faithfulness_plugin.transcoders.formats.llamascopium import Llamascopium
from faithfulness_plugin.transcoders.formats.request import Request
from faithfulness_plugin.transcoders.formats.sae_lens import SAELens
from faithfulness_plugin.transcoders.formats.sparsify import Sparsify
from faithfulness_plugin.transcoders.formats.transcoder_circuits import TranscoderCircuits

FORMATS: tuple[Format, ...] = (
    SAELens(),
    CltTraining(),
    Sparsify(),
    DictionaryLearning(),
    CircuitTracer(),
    CrossLayer(),
    GemmaScope(),
    GemmaScope2(),
    TranscoderCircuits(),
    Llamascopium(),
)
"""The first of the formats that a folder resembles equally reads it."""
DEPTH = 3
"""Folders within folders that are looked into: Gemma Scope has a layer's, a width's, a sparsity's."""


def read(path: Path, request: Request) -> Transcoder:
    """Read the transcoder in a folder or file, by the format that it resembles most.

    Args:
        path: the folder or file.
        request: the options of `load_transcoder`.

    Returns:
        The transcoder.

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
    if path.is_dir() and (inside := _transcoders_inside(path)):
        raise FormatError(f"{path} is not a single transcoder, and holds {listed(inside, 8)}: pass one of these")
    if best == Likeness.SETTINGS:
        titles = " or ".join(one.title for one in of_best)
        lacks = " or ".join(dict.fromkeys(one.writes.rpartition(" and ")[2] for one in of_best))
        raise FormatError(f"{path} has the settings of {titles}, and lacks {lacks}: copy that there, too")
    known = "; ".join(f"{one.title} has {one.writes}" for one in FORMATS)
    if path.is_file():
        raise FormatError(f"{path} is none of the files that are known here, or is damaged: {known}")
    here = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "it is empty"
    raise FormatError(f"{path} holds no transcoder that is known here ({here}): {known}")


def makes_folder(file: str) -> bool:
    """Tell whether a file makes its folder one transcoder, or one set.

    Args:
        file: its name.

    Returns:
        Whether any format has weights, or a set's settings, of this name.
    """
    return any(Path(file).match(pattern) for one in FORMATS for pattern in (*one.weights, *one.folders))


def _transcoders_inside(folder: Path) -> list[str]:
    """List the folders with weights and the checkpoints in a folder, relative to it."""
    found: set[Path] = set()
    for here, folders, files in os.walk(folder):
        depth = len(Path(here).relative_to(folder).parts)
        folders[:] = [name for name in folders if depth < DEPTH and not name.startswith(".")]
        if depth and any(makes_folder(file) for file in files):
            found.add(Path(here))
        patterns = [pattern for one in FORMATS for pattern in one.checkpoints]
        found |= {Path(here, file) for file in files if any(Path(file).match(pattern) for pattern in patterns)}
    return sorted((str(path.relative_to(folder)) for path in found), key=_in_order)


def _in_order(name: str) -> list[tuple[int, str]]:
    """Sort numbers by size: layer_2 before layer_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
