"""circuit-tracer's own transcoders as linear regions: measured and matched in closed form."""

from torch import Tensor

from faithfulness_plugin.adapters.needs import needs
from faithfulness_plugin.adapters.regions import register_regions
from faithfulness_plugin.jacobian.linear_region import DenseRegion, LinearRegion, Weights

with needs("circuit-tracer>=0.5,<0.6"):
    from circuit_tracer.transcoder import SingleLayerTranscoder


def _weights(transcoder: SingleLayerTranscoder) -> Weights:
    return Weights(transcoder.W_enc.T, transcoder.W_dec, transcoder.b_dec, transcoder.W_skip)


@register_regions(SingleLayerTranscoder, weights=_weights)
def _encoded(transcoder: SingleLayerTranscoder, x: Tensor) -> LinearRegion | None:
    """Encode x: t(x) = W_dec a(W_enc x + b_enc) + b_dec (+ W_skip x), for ReLU, JumpReLU and TopK. Where TopK keeps
    features below 0, None leaves it to autograd."""
    acts = transcoder.encode(x)
    return None if (acts < 0).any() else DenseRegion(x, _weights(transcoder), acts)
