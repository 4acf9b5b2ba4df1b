"""How well, and with how many features, a transcoder gives the layer's outputs."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.metrics.result import MetricResult, Transcoder, check_same_shape

EFFECTIVE_SHARE = 0.01


@dataclass(frozen=True)
class Reconstruction(MetricResult):
    """Outputs and activity, averaged over rows."""

    fvu: float
    """Fraction of variance unexplained, centred: E||f - t||^2 / E||f - E f||^2."""
    l0: float
    """Mean number of features with a_i > 0."""
    effective_l0: float
    """Mean number of features with a_i ||W_dec^i|| above 1 % of the rms output norm: without the barely
    active features that tanh penalties leave."""
    dead_fraction: float
    """Share of features that never fire on these rows."""
    validation_loss: float
    """E||f - t||^2 / d_out: mean squared error per coordinate."""
    sparsity: float
    """Mean of tanh(5 a_i) over features and rows."""


@torch.no_grad()
def reconstruction(transcoder: Transcoder, layer: Layer, x: Float[Tensor, "batch d_in"]) -> Reconstruction:
    """Compare outputs, and count active features, on rows x.

    FVU = E||f - t||^2 / E||f - E f||^2, centred.

    Args:
        transcoder: with `encode`, `decode` and `W_dec`.
        layer: the function that it replaces.
        x: rows of the layer's input.

    Returns:
        FVU, L0, effective L0, dead fraction, mean squared error and tanh sparsity.

    Raises:
        ValueError: transcoder and layer differ in d_out; or the layer's output is the same on all rows, so that the FVU
            is undefined.

    Writing the mean output everywhere leaves all of the variance unexplained:

        >>> import torch
        >>> from faithfulness_plugin.toy.abs_network import AbsNetwork
        >>> from faithfulness_plugin.toy.exact_transcoder import exact_transcoder
        >>> layer, x = AbsNetwork(3), torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
        >>> mean = exact_transcoder(layer)
        >>> reconstruction(mean, layer, x).fvu, reconstruction(mean, layer, x).l0
        (0.0, 3.0)
        >>> mean.W_dec.data, mean.b_dec.data = torch.zeros(6, 3), layer(x).mean(0)
        >>> round(reconstruction(mean, layer, x).fvu, 5)
        1.0
    """
    from faithfulness_plugin.transcoders.skip import output_of  # loads SAELens

    y = layer(x)
    acts = transcoder.encode(x)
    t = output_of(transcoder, x, acts)
    check_same_shape(t, y)
    error = (t - y).square()
    # error [batch, d_out]; the variance is summed over both
    variance = (y - y.mean(0)).square().sum()
    if variance == 0 or not (y != y[0]).any():  # the mean of equal rows need not be equal to them
        raise ValueError("the layer's output is the same on all rows, so the FVU is undefined: pass other rows")
    rms_norm = y.square().sum(-1).mean().sqrt()
    # [batch, d_sae]: what each feature writes against 1 % of the rms ||y||
    effective = acts * transcoder.W_dec.norm(dim=-1) > EFFECTIVE_SHARE * rms_norm
    return Reconstruction(
        fvu=(error.sum() / variance).item(),
        l0=(acts > 0).sum(-1).float().mean().item(),
        effective_l0=effective.sum(-1).float().mean().item(),
        dead_fraction=(~(acts > 0).any(0)).float().mean().item(),
        validation_loss=error.mean().item(),
        sparsity=torch.tanh(5 * acts).mean().item(),
    )
