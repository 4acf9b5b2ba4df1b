"""circuit-tracer's own transcoders as linear regions: measured and matched in closed form."""

from torch import Tensor

from faithfulness_plugin.adapters.needs import needs
from faithfulness_plugin.jacobian.linear_region import (
    DenseRegion,
    LinearRegion,
    Weights,
    linear_region,
    region_of_activations,
)

with needs("circuit-tracer>=0.5,<0.6"):
    from circuit_tracer.transcoder import SingleLayerTranscoder


@linear_region.register
def _single_layer_region(
    transcoder: SingleLayerTranscoder,
    x: Tensor,
    *,
    gate: Tensor | LinearRegion | None = None,
    gate_bandwidth: float | None = None,
) -> LinearRegion | None:
    """t(x) = W_dec a(W_enc x + b_enc) + b_dec (+ W_skip x), for ReLU, JumpReLU and TopK; where TopK keeps features
    below 0 it is left to autograd."""
    weights = Weights(transcoder.W_enc.T, transcoder.W_dec, transcoder.b_dec, transcoder.W_skip)
    if gate is not None or gate_bandwidth is not None:
        return region_of_activations(x if gate is None else gate, x, weights, gate_bandwidth)
    acts = transcoder.encode(x)
    return None if (acts < 0).any() else DenseRegion(x, weights, acts)
