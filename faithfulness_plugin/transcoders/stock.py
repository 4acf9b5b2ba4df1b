"""SAELens's own inference transcoders, and ours for TopK, as linear regions: so that finished transcoders are measured
and matched in closed form."""

from sae_lens.saes.transcoder import JumpReLUTranscoder, Transcoder
from torch import Tensor

from faithfulness_plugin.jacobian.dense_region import DenseRegion, SignedRegion, region_of_activations
from faithfulness_plugin.jacobian.linear_region import LinearRegion, Weights, linear_region
from faithfulness_plugin.transcoders.gates import straight_through
from faithfulness_plugin.transcoders.topk_inference import TopKTranscoder


@linear_region.register
def _stock_region(
    transcoder: Transcoder, x: Tensor, *, gate: Tensor | LinearRegion | None = None, gate_bandwidth: float | None = None
) -> LinearRegion | None:
    """Find the region of a Transcoder, SkipTranscoder, JumpReLUTranscoder, JumpReLUSkipTranscoder or TopKTranscoder."""
    if transcoder.cfg.normalize_activations != "none" or transcoder.cfg.reshape_activations != "none":
        return None  # what happens before the encoder is not linear: autograd
    weights = Weights.of(transcoder)
    signed = isinstance(transcoder, TopKTranscoder) and (transcoder.cfg.keep_negative or transcoder.cfg.shift)
    if gate is not None and not (signed and isinstance(gate, Tensor) and gate_bandwidth is None):
        return region_of_activations(gate, x, weights, gate_bandwidth)
    feature_acts = transcoder.encode(x) if gate is None else gate
    if signed and gate_bandwidth is None:
        return SignedRegion(x, weights, feature_acts)
    if gate_bandwidth is None:
        return DenseRegion(x, weights, feature_acts)
    if isinstance(transcoder, TopKTranscoder):
        raise ValueError("straight-through gates of a finished TopK transcoder are not known: train the training class")
    hidden_pre = transcoder.process_sae_in(x) @ transcoder.W_enc + transcoder.b_enc
    threshold = transcoder.threshold if isinstance(transcoder, JumpReLUTranscoder) else hidden_pre.new_zeros(())
    gate = straight_through(feature_acts, hidden_pre, threshold, gate_bandwidth)
    return DenseRegion(x, weights, feature_acts, hidden_pre, gate)
