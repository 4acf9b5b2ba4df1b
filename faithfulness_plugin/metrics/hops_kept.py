"""Hops kept: whether what a layer writes goes through the features that read that layer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.metrics.result import MetricResult

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from faithfulness_plugin.transcoders.cross_layer_function import CrossLayerFunction


@dataclass(frozen=True)
class HopsKept(MetricResult):
    """Through which layers' features a cross-layer transcoder writes to each layer."""

    kept: float
    """Mean over m = 1, ..., L - 1 of `by_layer`: 1 says that no layer is skipped but where the truth skips it, 0 that
    no layer's output goes through its own features."""
    by_layer: tuple[float, ...]
    """sum over l <= m of min(s_lm, s*_lm) for m = 1, ..., L - 1."""
    shares: Float[np.ndarray, "n_layers n_layers"]
    """s_lm: the share of what is written to layer m that features reading layer l write; 0 for l > m."""


@torch.no_grad()
def hops_kept(
    transcoder: "CrossLayerFunction",
    x: Float[Tensor, "batch d_in"],
    truth: "CrossLayerFunction | None" = None,
) -> HopsKept:
    """Compare the shares in which layers' features write to each layer with those of the model.

    s_lm = E||c_lm - E c_lm||^2 / sum over k <= m of E||c_km - E c_km||^2,  c_lm = W_dec_lm a_l(x_l),

    and layer m keeps sum over l of min(s_lm, s*_lm) of the truth's shares s*. Without a truth each layer is a function
    of its own input, s*_mm = 1, and layer m keeps s_mm. The first layer is left out: nothing comes before it.

    Args:
        transcoder: cross-layer, of two layers or more.
        x: rows [batch, L * d_in].
        truth: the cross-layer transcoder that is the model, where layers really do read earlier ones' inputs.

    Returns:
        What is kept, in all and layer by layer, and all shares.

    Raises:
        ValueError: fewer than two layers.

    Per-layer transcoders keep all hops:

        >>> import torch
        >>> from faithfulness_plugin import CrossLayerTrainingTranscoder, CrossLayerTrainingTranscoderConfig
        >>> from faithfulness_plugin import StandardTrainingTranscoderConfig
        >>> each = StandardTrainingTranscoderConfig(d_in=3, d_sae=8)
        >>> config = CrossLayerTrainingTranscoderConfig(n_layers=2, per_layer=each, bandwidth=1)
        >>> hops_kept(CrossLayerTrainingTranscoder(config), torch.randn(32, 6)).by_layer
        (1.0,)
    """
    if transcoder.n_layers < 2:
        raise ValueError("one layer has no hops: pass a cross-layer transcoder of two layers or more")
    shares = write_shares(transcoder, x)
    true = np.eye(len(shares)) if truth is None else write_shares(truth, x)
    by_layer = tuple(np.minimum(shares, true).sum(axis=0)[1:].tolist())
    return HopsKept(float(np.mean(by_layer)), by_layer, shares)


@torch.no_grad()
def write_shares(
    transcoder: "CrossLayerFunction", x: Float[Tensor, "batch d_in"]
) -> Float[np.ndarray, "n_layers n_layers"]:
    """Compute s_lm of `hops_kept`.

    Args:
        transcoder: cross-layer.
        x: rows [batch, L * d_in].

    Returns:
        s_lm at [l, m]; a column of zeros where nothing that is written varies.
    """
    region, n = transcoder.region(x), transcoder.n_layers
    energy = np.zeros((n, n))
    for source, part in enumerate(region.parts):
        # c_lm [batch, d_out] for m = l, l + 1, ...
        for k, c in enumerate(region.written(part.decode())):
            energy[source, source + k] = (c - c.mean(0)).square().sum().item()
    totals = energy.sum(axis=0)
    return np.divide(energy, totals, out=np.zeros_like(energy), where=totals > 0)
