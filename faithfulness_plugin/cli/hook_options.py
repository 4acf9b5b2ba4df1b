"""Options of commands on finished transcoders: the model, the tensors that they read and write, how files are read."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

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
