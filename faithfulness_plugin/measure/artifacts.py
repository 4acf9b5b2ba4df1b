"""The finished transcoders that are measured, each with a digest of its files."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.measure.config import ArtifactConfig
from faithfulness_plugin.transcoders.formats.request import Request
from faithfulness_plugin.transcoders.load import load_with_files

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE


@dataclass(frozen=True)
class Artifact:
    """A transcoder as it was read."""

    name: str
    transcoder: "SAE[Any]"
    digest: str

    __repr__ = short_repr


def read_artifacts(config: ArtifactConfig) -> list[Artifact]:
    """Read all transcoders of a config, from folders and addresses.

    Args:
        config: names them and says how they are read.

    Returns:
        The transcoders in `eval` mode, each with a digest of its files.

    Raises:
        FormatError: a source that holds none.
    """
    dtype = torch.float32 if config.transcoder_dtype == "float32" else None
    request, found = Request(config.block, config.device, dtype, config.autoencoder), []
    for name, source in config.transcoders.items():
        loaded = load_with_files(source, request)
        found.append(Artifact(name, loaded.transcoder.eval(), _digest(loaded.files())))
    return found


def _digest(files: list[Path]) -> str:
    """Return a digest of the files that a transcoder was read from."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return "sha256:" + digest.hexdigest()
