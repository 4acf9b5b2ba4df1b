"""What a loader was asked for, and whether a transcoder is that."""

import re
from dataclasses import dataclass

import torch
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.transcoder import TranscoderConfig

from faithfulness_plugin.transcoders.formats.errors import FormatError, Where

SIDES = ("hf_hook_name", "hook_name")
"""The metadata that say what is read; with _out, what is written. The names in the model itself come
first: those that SAELens translated may be wrong."""


@dataclass(frozen=True)
class Request:
    """The options that `load_transcoder` was given."""

    layer: int | None = None
    """The part of a set of several layers."""
    device: str = "cpu"
    """The device of the weights."""
    dtype: torch.dtype | None = torch.float32
    """The dtype that weights are converted to; None keeps the file's."""
    autoencoder: bool = False
    """Read an autoencoder as the map from its tensor to the same tensor; without it an autoencoder is refused."""

    def require_transcoder(self, where: Where, why: str) -> None:
        """Check that no autoencoder was asked for, where the file says that this is none.

        Args:
            where: what messages call the file.
            why: what says that it is a transcoder.

        Raises:
            FormatError: one was asked for.
        """
        if self.autoencoder:
            raise FormatError(
                f"{where} is a transcoder ({why}), and autoencoder=True was asked for (on the command line "
                "--autoencoder): leave that out"
            )

    def require_autoencoder(self, where: Where, reads: str | None) -> None:
        """Check that an autoencoder was asked for, which this is.

        Args:
            where: what messages call the file.
            reads: the tensor that it reads and writes, where that is known.

        Raises:
            FormatError: none was asked for.
        """
        if not self.autoencoder:
            tensor = f" of {reads}" if reads else ""
            raise FormatError(
                f"{where} is an autoencoder{tensor}: what it reads is what it writes, and it is no transcoder of a "
                "layer; pass autoencoder=True (on the command line --autoencoder) to measure it as the map from that "
                "tensor to itself"
            )

    def require_answered(self, cfg: TranscoderConfig, where: str) -> None:
        """Check a transcoder's metadata against what was asked for.

        Those of an autoencoder then say that it writes what it reads.

        Args:
            cfg: the transcoder's, whose metadata may change.
            where: what messages call the file.

        Raises:
            FormatError: metadata of another kind than they should be; it is of another layer; it reads what it writes,
                and no autoencoder was asked for; or one was, and it reads another tensor than it writes.
        """
        metadata = cfg.metadata
        pairs = [(metadata[side], metadata[f"{side}_out"]) for side in SIDES]
        for name in ("model_name", *SIDES, *(f"{side}_out" for side in SIDES)):
            if not isinstance(metadata[name], str | None):
                raise FormatError(
                    f"{where} says {name}: {metadata[name]!r}, and a name is needed: correct it, or take it out"
                )
        if isinstance(metadata.l0, bool) or not isinstance(metadata.l0, int | float | None):
            raise FormatError(f"{where} says l0: {metadata.l0!r}, and a number is needed: correct it, or take it out")
        said = _layer_of(metadata)
        if self.layer is not None and said is not None and self.layer != said:
            raise FormatError(
                f"{where} is of layer {said}, and layer={self.layer} was asked for: leave layer out, or pass another "
                "path"
            )
        reads, writes = next((pair for pair in pairs if None not in pair), (None, None))
        if metadata.autoencoder or (reads is not None and reads == writes):
            self.require_autoencoder(where, reads or metadata.hookpoint)
        elif reads is not None:
            self.require_transcoder(where, f"it reads {reads} and writes {writes}")
        if self.autoencoder and cfg.d_in != cfg.d_out:
            self.require_transcoder(where, f"it reads {cfg.d_in} and writes {cfg.d_out}")
        if self.autoencoder:
            metadata.autoencoder = True
            for side, (read, _) in zip(SIDES, pairs, strict=True):
                if read is not None:
                    metadata[f"{side}_out"] = read


def _layer_of(metadata: SAEMetadata) -> int | None:
    """Find the block that the metadata say, by the hooks or by `layer`."""
    for name in ("hook_name", "hf_hook_name", "hookpoint"):
        said = metadata[name]
        if isinstance(said, str) and (match := re.search(r"(?:^|\.)(?:blocks|layers|h)\.(\d+)(?:\.|$)", said)):
            return int(match[1])
    return metadata.layer if isinstance(metadata.layer, int) else None
