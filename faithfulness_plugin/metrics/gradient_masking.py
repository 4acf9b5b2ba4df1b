"""Gradient masking: how much slope the active features have for what they write."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.jacobian.linear_region import known_region
from faithfulness_plugin.metrics.result import MetricResult


@dataclass(frozen=True)
class GradientMasking(MetricResult):
    """Means over rows."""

    index: float
    """sum_i 1[a_i > 0] ||W_enc^i|| ||W_dec^i||: slopes of active features."""
    written: float
    """sum_i a_i ||W_dec^i||: what they write."""
    ratio: float
    """index / written; large where features that write next to nothing have large slopes."""
    barely_active: float
    """The share of the index that belongs to features writing less than 1 % of the rms of what rows write."""


@torch.no_grad()
def gradient_masking(transcoder: nn.Module, x: Float[Tensor, "batch d_in"]) -> GradientMasking:
    """Compare the slopes of active features with what they write, averaged over rows.

    index = E sum_i 1[a_i > 0] ||W_enc^i|| ||W_dec^i||, beside E sum_i a_i ||W_dec^i||.

    Args:
        transcoder: one whose features are known (see `linear_region`).
        x: rows of the layer's input.

    Returns:
        The index, what is written, and their ratio; all 0 where no feature fires.

    Raises:
        ValueError: a module whose features are not known.

    Source: C. Olah, "A Toy Model of Mechanistic (Un)Faithfulness", 2025, on gradient masking.

    Every coordinate of |x| has slope 1 and writes |x_i|:

        >>> import torch
        >>> from faithfulness_plugin.toy.abs_network import AbsNetwork
        >>> from faithfulness_plugin.toy.exact_transcoder import exact_transcoder
        >>> found = gradient_masking(exact_transcoder(AbsNetwork(3)), torch.tensor([[2.0, -1.0, 3.0]]))
        >>> found.index, found.written
        (3.0, 6.0)
    """
    region = known_region(transcoder, x)
    acts = region.feature_acts.to_dense() if region.feature_acts.is_sparse else region.feature_acts
    W_enc, W_dec, *_ = region.weights
    # what each feature writes at each row, [batch, d_sae], and all of them, [batch]
    written = acts * W_dec.norm(dim=1)
    per_row = written.sum(-1)
    if not per_row.any():
        return GradientMasking(0.0, 0.0, 0.0, 0.0)
    # [batch, d_sae] * [d_sae]
    slopes = (acts > 0) * (W_enc.norm(dim=0) * W_dec.norm(dim=1))
    barely = written < 0.01 * per_row.square().mean().sqrt()
    index = slopes.sum(-1).mean()
    return GradientMasking(
        index=index.item(),
        written=per_row.mean().item(),
        ratio=(index / per_row.mean()).item(),
        barely_active=((slopes * barely).sum() / slopes.sum()).item(),
    )
