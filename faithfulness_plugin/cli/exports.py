"""Options of `faithfulness inspect` that write files for other tools."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from faithfulness_plugin.errors import UsageError

if TYPE_CHECKING:
    from faithfulness_plugin.inspection.inspection import Inspection
    from faithfulness_plugin.inspection.subjects import Subject

READERS = {"delphi": "delphi", "neuronpedia": "Neuronpedia", "circuit_tracer": "circuit-tracer"}
"""Tools by the name of their option."""


class Handed(NamedTuple):
    """What an export is made of."""

    of: "Inspection"
    subject: "Subject"
    text_name: str
    overwrite: bool

    @property
    def model_name(self) -> str:
        """The name of the tokenizer's model; "" where it has none."""
        return getattr(getattr(self.subject.token_text, "tokenizer", None), "name_or_path", "")

    @property
    def layer(self) -> int:
        """The number of the block."""
        from faithfulness_plugin.layers.declared_hooks import block_of

        hooks = (getattr(self.subject.layer, side, None) for side in ("hook_in", "hook_out"))
        block = next((b for hook in hooks if (b := block_of(hook)) is not None), None)
        if block is None:
            raise UsageError(f"{self.subject.name}: exports name a layer by its block, and this one is in none")
        return block


def require_exports(folders: dict[str, Path | None], names: Sequence[str], *, bare: bool, overwrite: bool) -> None:
    """Refuse exports that cannot be written, before anything is loaded.

    Args:
        folders: by the option's name; None for exports that nobody asked for.
        names: of the transcoders.
        bare: the layer is in no language model.
        overwrite: whether exports may be replaced.

    Raises:
        UsageError: bare layers, which have no text; folders with other files, or with an export.
    """
    from faithfulness_plugin.cli.checks import require_writable

    for option, folder in folders.items():
        if folder is None:
            continue
        flag = f"--{option.replace('_', '-')}"
        if bare:
            raise UsageError(
                f"{flag}: {READERS[option]} explains features on text, which bare layers have none of: leave it out"
            )
        require_writable(folder, flag)
        for place in (folder / name for name in names):
            if place.exists():
                _require_place(option, place, overwrite=overwrite)


def _require_place(option: str, place: Path, *, overwrite: bool) -> None:
    """Refuse what can be told before the model and the layer are known."""
    from faithfulness_plugin.export_folder import require_place
    from faithfulness_plugin.inspection.exports.circuit_tracer import FEATURES
    from faithfulness_plugin.inspection.exports.delphi import LATENTS

    if option == "delphi":
        require_place(place, LATENTS, overwrite=overwrite)
    if option == "circuit_tracer":
        require_place(place, FEATURES, overwrite=True)


def write_exports(folders: dict[str, Path | None], handed: Sequence[Handed]) -> list[Path]:
    """Write all exports that were asked for.

    Args:
        folders: by the option's name; None for the others.
        handed: what was inspected.

    Returns:
        What was written, or the folder of it.

    Raises:
        UsageError: a folder with other files, or with an export.
    """
    asked = {option: folder for option, folder in folders.items() if folder is not None}
    return [WRITERS[option](folder, of) for option, folder in asked.items() for of in handed]


def _delphi(folder: Path, handed: Handed) -> Path:
    from faithfulness_plugin.inspection.exports.delphi import write_delphi_cache

    return write_delphi_cache(
        handed.of.transcoder,
        handed.subject.sample,
        folder,
        name=handed.of.name,
        model_name=handed.model_name,
        text_name=handed.text_name,
        overwrite=handed.overwrite,
    )


def _neuronpedia(folder: Path, handed: Handed) -> Path:
    from faithfulness_plugin.inspection.exports.neuronpedia import SourceId, write_neuronpedia

    return write_neuronpedia(
        handed.of,
        folder,
        SourceId.of(handed.of, handed.model_name, handed.layer),
        token_text=handed.subject.token_text,
        text_name=handed.text_name,
        overwrite=handed.overwrite,
    )


def _circuit_tracer(folder: Path, handed: Handed) -> Path:
    from faithfulness_plugin.inspection.exports.circuit_tracer import write_circuit_tracer_features

    return write_circuit_tracer_features(
        {handed.layer: handed.of},
        folder / handed.of.name,
        name=handed.of.name,
        model_name=handed.model_name,
        token_text=handed.subject.token_text,
        overwrite=handed.overwrite,
    )


WRITERS: dict[str, Callable[[Path, Handed], Path]] = {
    "delphi": _delphi,
    "neuronpedia": _neuronpedia,
    "circuit_tracer": _circuit_tracer,
}
