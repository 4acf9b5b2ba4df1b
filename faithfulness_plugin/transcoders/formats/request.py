"""The options that a transcoder is read with, and what they say of autoencoders."""

from dataclasses import dataclass

import torch

from faithfulness_plugin.transcoders.formats.errors import FormatError, Where


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
