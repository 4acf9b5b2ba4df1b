"""Options of commands on finished transcoders: their names, the model, the tensors that they read and write, how files
are read."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.hub_path import HubPath, is_hub_path

if TYPE_CHECKING:
    import torch

Model = Annotated[
    str | None,
    typer.Option(help="A name on the hub, a folder, or smollm2, which needs no hub [default: what the file names]"),
]
ModelAnyway = Annotated[bool, typer.Option("--model-anyway", help="Use --model, though the file names another model")]
HookIn = Annotated[
    str | None, typer.Option(help="The tensor that it reads, by a name of TransformerLens or Hugging Face")
]
HookOut = Annotated[str | None, typer.Option(help="The tensor that it writes")]
HooksAnyway = Annotated[
    bool, typer.Option("--hooks-anyway", help="Use --hook-in and --hook-out, though the file says other tensors")
]
AsAutoencoder = Annotated[
    bool, typer.Option("--autoencoder", help="It is an autoencoder: measure it as a map of one tensor to itself")
]
WeightsDtype = Annotated[
    Literal["float32", "stored"], typer.Option("--dtype", help="Of the transcoder's weights: stored keeps the file's")
]


def weights_dtype(given: str) -> "torch.dtype | None":
    """Return what `load_transcoder` converts weights to."""
    import torch

    return torch.float32 if given == "float32" else None


def by_name(given: Sequence[str]) -> dict[str, str]:
    """Return the sources of transcoders by name: what NAME=SOURCE says, or a short name of the source.

    A source may have "=" in it: what exists, begins with hf://, or has a "/" before its "=" is no NAME=SOURCE.

    Raises:
        UsageError: two of one name.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, source = text.partition("=")
        if not equals or Path(text).exists() or is_hub_path(text) or "/" in name:
            name, source = _short_name(text), text
        if name in found:
            raise UsageError(f"{text}: there is a {name} already; write NAME=FOLDER, with another name")
        found[name] = source
    return found


def _short_name(source: str) -> str:
    """Return the last part of a path or address, without the name of a file that all transcoders of a format have."""
    if not is_hub_path(source):
        return Path(source).resolve().name
    of = HubPath.of(source)
    path = PurePosixPath(of.repo, of.path)
    return path.parent.name if path.stem == "params" else path.name
