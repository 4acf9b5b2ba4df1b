"""A transcoder's features as the residual stream meets them: what of it they read, and what they add to it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.inspection.layer_vocabulary import LayerVocabulary
from faithfulness_plugin.layers.vocabulary import NormScale

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE

Which = slice | Int[Tensor, " some"]
ALL = slice(None)


@dataclass(frozen=True)
class StreamFeatures:
    """The features of one transcoder, between two places of the residual stream.

    With N x = g * C x / size(x) the norm in front of the layer (C takes the mean over coordinates off for a LayerNorm,
    and is 1 for an RMSNorm), feature j reads C (g * W_enc^j) of a row of size 1, and feature i adds c W_dec^i, with c
    the multiple of the layer's output that the stream gets.
    """

    transcoder: "SAE[Any]"
    norm_in: NormScale | None
    """N; None where the layer reads no norm of the stream."""
    written: float | None
    """c; None where the stream does not get the layer's output as it is."""

    __repr__ = short_repr

    @classmethod
    def of(cls, transcoder: "SAE[Any]", vocabulary: LayerVocabulary | None) -> "StreamFeatures":
        """Take over what is known of the layer.

        Args:
            transcoder: of the layer.
            vocabulary: of the layer (`layer_vocabulary`); None where nothing is known.

        Returns:
            The features.
        """
        if vocabulary is None:
            return cls(transcoder, None, None)
        return cls(transcoder, vocabulary.norm_in, vocabulary.written)

    @property
    def d_sae(self) -> int:
        return len(self.transcoder.W_dec)

    @property
    def dtype(self) -> torch.dtype:
        """That of products: single precision at least."""
        return torch.promote_types(self.transcoder.W_dec.dtype, torch.float32)

    @property
    def has_skip(self) -> bool:
        """Whether a skip connection leads from the stream to the stream."""
        known = self.norm_in is not None and self.written is not None
        return known and getattr(self.transcoder, "W_skip", None) is not None

    def reads(self, which: Which = ALL) -> Float[Tensor, "some d_model"]:
        """Compute what features read of a row of size 1.

        Args:
            which: some of them.

        Returns:
            C (g * W_enc^j).
        """
        assert self.norm_in is not None
        return self.norm_in.pull(_full(self.transcoder.W_enc).T[which])

    def writes(self, which: Which = ALL) -> Float[Tensor, "some d_model"]:
        """Compute what features add to the stream for an activation of 1.

        Args:
            which: some of them.

        Returns:
            c W_dec^i.
        """
        assert self.written is not None
        return self.written * _full(self.transcoder.W_dec)[which]

    def through_skip(self, directions: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
        """Compute what directions of the stream behind the layer read of the stream in front of it, by the skip
        connection alone, at a row of size 1.

        Args:
            directions: u, rows.

        Returns:
            C (g * W_skip^T c u).
        """
        assert self.norm_in is not None
        assert self.written is not None
        W_skip: Any = self.transcoder.W_skip
        return self.norm_in.pull(self.written * directions @ _full(W_skip))  # [n, d_out] @ [d_out, d_in]


def _full(W: Tensor) -> Tensor:
    return W.detach().to(torch.promote_types(W.dtype, torch.float32))
