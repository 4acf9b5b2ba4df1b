"""What dictionary_learning's dictionaries (0.1) compute, in closed form: W_dec (g * (W_enc v)), of active features."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from faithfulness_plugin.adapters.needs import needs
from faithfulness_plugin.jacobian.active import ActiveFeatures, dot_active
from faithfulness_plugin.jacobian.estimators.secant import row_function
from faithfulness_plugin.jacobian.linear_region import (
    DenseRegion,
    LinearRegion,
    SparseRegion,
    Weights,
    linear_region,
    region_of_activations,
)
from faithfulness_plugin.layers.derivatives import Layer

with needs("dictionary_learning>=0.1,<0.2", install="--no-deps 'dictionary_learning>=0.1,<0.2' nnsight"):
    from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.jumprelu import JumpReLUFunction
    from dictionary_learning.trainers.top_k import AutoEncoderTopK


def weights_of(ae: Any) -> Weights:
    """In SAELens's names, of any of the dictionaries."""
    if isinstance(ae, JumpReluAutoEncoder):
        return Weights.of(ae)
    if isinstance(ae, AutoEncoderNew):
        b_dec = ae.decoder.bias
    else:
        b_dec = ae.decoder_bias if isinstance(ae, GatedAutoEncoder) else getattr(ae, "b_dec", getattr(ae, "bias", None))
    W_enc = ae.encoder.weight.T
    if isinstance(ae, GatedAutoEncoder):
        W_enc = W_enc * ae.r_mag.exp()
    return Weights(W_enc, ae.decoder.weight.T, b_dec)


class BatchRegion(SparseRegion):
    """Of features that were chosen among a batch of rows, not by the learned threshold."""


@dataclass(frozen=True)
class JumpReluRegion(DenseRegion):
    """Of activations with a gradient to the thresholds, as their trainer has them."""

    bandwidth: float = 0.0


def jump_relu(ae: JumpReluAutoEncoder, x: Tensor, bandwidth: float) -> Tensor:
    acts: Any = JumpReLUFunction.apply(x @ ae.W_enc + ae.b_enc, ae.threshold, bandwidth)
    return acts


def _dictionary_region(
    ae: Any, x: Tensor, *, gate: Tensor | LinearRegion | None = None, gate_bandwidth: float | None = None
) -> LinearRegion:
    """Every one of them is linear in its active features."""
    if gate is None and gate_bandwidth is None:
        return DenseRegion(x, weights_of(ae), ae.encode(x.to(next(ae.parameters()).dtype)))
    return region_of_activations(x if gate is None else gate, x, weights_of(ae), gate_bandwidth)


for dictionary in (AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder, BatchTopKSAE):
    linear_region.register(dictionary, _dictionary_region)


@linear_region.register
def topk_region(
    ae: AutoEncoderTopK, x: Tensor, *, gate: Tensor | LinearRegion | None = None, gate_bandwidth: float | None = None
) -> LinearRegion:
    """Of k features a row, with a gradient of their size."""
    if gate is not None or gate_bandwidth is not None:
        return region_of_activations(x if gate is None else gate, x, weights_of(ae), gate_bandwidth)
    rows = x.reshape(-1, x.shape[-1]).to(ae.b_dec.dtype)
    with torch.no_grad():
        indices = ae.encoder(rows - ae.b_dec).topk(int(ae.k), dim=-1, sorted=False).indices
    entries = ActiveFeatures.same_count(indices, ae.dict_size)
    values = dot_active(rows - ae.b_dec, entries, ae.encoder.weight) + ae.encoder.bias[entries.features]
    return SparseRegion(x, weights_of(ae), values.relu(), entries)


@row_function.register
def _row_function_of_jump_relu(ae: JumpReluAutoEncoder, x: Tensor, region: LinearRegion) -> Layer:
    """While training, thresholds have a gradient on the way too."""
    if not isinstance(region, JumpReluRegion):
        return row_function.dispatch(object)(ae, x, region)
    return lambda moved: ae.decode(jump_relu(ae, moved, region.bandwidth))


@row_function.register
def _row_function_of_batch(ae: BatchTopKSAE, x: Tensor, region: LinearRegion) -> Layer:
    """While training, the least activation that stayed in the batch is the threshold on the way."""
    if not isinstance(region, BatchRegion):
        return row_function.dispatch(object)(ae, x, region)
    kept = region.values.detach()
    threshold = kept.min() if len(kept) else x.new_tensor(torch.inf)

    def t(moved: Tensor) -> Tensor:
        acts = nn.functional.relu(ae.encoder(moved - ae.b_dec))
        return ae.decode(acts * (acts >= threshold))

    return t
