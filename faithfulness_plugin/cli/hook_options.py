"""Options of commands on finished transcoders: their names, the model, the tensors that they read and write, how files
are read."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from faithfulness_plugin.errors import UsageError

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
    """Translate --dtype.

    Args:
        given: the option's value.

    Returns:
        What `load_transcoder` converts weights to; None keeps the file's.
    """
    import torch

    return torch.float32 if given == "float32" else None


def by_name(given: Sequence[str]) -> dict[str, str]:
    """Name transcoders: as NAME=SOURCE says, or by a short name of the source.

    A source may have "=" in it: what exists, begins with hf://, or has a "/" before its "=" is no NAME=SOURCE.

    Args:
        given: the command's arguments.

    Returns:
        Sources by name.

    Raises:
        UsageError: two of one name.
    """
    from faithfulness_plugin.transcoders.address import is_hub_path

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
    from faithfulness_plugin.transcoders.address import HubPath, is_hub_path

    if not is_hub_path(source):
        return Path(source).resolve().name
    of = HubPath.of(source)
    path = PurePosixPath(of.repo, of.path)
    return path.parent.name if path.stem == "params" else path.name
