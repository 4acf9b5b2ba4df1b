"""What a format of transcoder files is: how it is recognised, and how it is read."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import torch
from sae_lens.saes.transcoder import Transcoder


class Likeness(IntEnum):
    """How much a folder or file resembles a format; of several formats, the one with the highest value reads it."""

    NONE = 0
    SETTINGS = 1
    """Its settings stand there, and no weights."""
    WEIGHTS = 2
    """Weights stand there under the name that it gives them, which other formats may share."""
    CERTAIN = 3
    """Settings, or the names of tensors, are those of this format alone."""


@dataclass(frozen=True)
class Request:
    """What the caller of `load_transcoder` asked for."""

    layer: int | None = None
    """The part of a set of several layers."""
    device: str = "cpu"
    """Where the weights go."""
    dtype: torch.dtype | None = torch.float32
    """What the weights are converted to; None keeps the file's."""
    autoencoder: bool = False
    """Read an autoencoder as the map from its tensor to the same tensor; without it an autoencoder is refused."""


@dataclass(frozen=True)
class Format:
    """One library's way to keep transcoders in files."""

    title: str
    """The format's name in messages, with its article: "a sparsify folder"."""
    writes: str
    """The files that its library writes: "cfg.json and sae.safetensors"."""
    likeness: Callable[[Path], Likeness]
    """How much a folder, or a file, resembles it. It returns NONE for whatever cannot be opened, and never raises."""
    read: Callable[[Path, Request], Transcoder]
    """Reads the folder or file. Raises FormatError where it cannot."""
    folders: tuple[str, ...] = ()
    """Patterns of the files that make their folder one transcoder, or one set: what can be passed instead of a folder
    that has such folders in it."""
    checkpoints: tuple[str, ...] = ()
    """Patterns of files each of which is a transcoder of its own: what can be passed instead of their folder."""
