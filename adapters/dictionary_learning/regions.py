"""Closed forms of dictionary_learning's dictionaries (0.1): W_dec (g * (W_enc v)), of active features."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from faithfulness_plugin.adapters.needs import needs
from faithfulness_plugin.adapters.regions import register_regions, topk_region
from faithfulness_plugin.jacobian.estimators.secant import row_function
from faithfulness_plugin.jacobian.linear_region import DenseRegion, LinearRegion, Weights
from faithfulness_plugin.jacobian.sparse_region import SparseRegion
from faithfulness_plugin.layers.derivatives import Layer

with needs("dictionary_learning>=0.1,<0.2", install="--no-deps 'dictionary_learning>=0.1,<0.2' nnsight"):
    from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.jumprelu import JumpReLUFunction
    from dictionary_learning.trainers.top_k import AutoEncoderTopK


def weights_of(ae: Any) -> Weights:
    """Read the weights of any of the dictionaries, by SAELens's names.

    Args:
        ae: one of dictionary_learning's dictionaries.

    Returns:
        W_enc [d_in, d_sae], W_dec [d_sae, d_out] and the output's bias; a gated one's magnitudes are multiplied into
        W_enc.
    """
    if isinstance(ae, JumpReluAutoEncoder):
        return Weights.of(ae)
    # their encoder.weight [d_sae, d_in], decoder.weight [d_out, d_sae]: ours are the transposes
    W_enc, W_dec = ae.encoder.weight.T, ae.decoder.weight.T
    if isinstance(ae, GatedAutoEncoder):
        return Weights(W_enc * ae.r_mag.exp(), W_dec, ae.decoder_bias)
    if isinstance(ae, AutoEncoder):
        return Weights(W_enc, W_dec, ae.bias)
    return Weights(W_enc, W_dec, ae.decoder.bias if isinstance(ae, AutoEncoderNew) else ae.b_dec)


class BatchRegion(SparseRegion):
    """The region of features that were chosen among a batch of rows, not by the learned threshold."""


@dataclass(frozen=True)
class JumpReluRegion(DenseRegion):
    """The region of activations with a gradient to the thresholds, as their trainer has them."""

    bandwidth: float = 0.0


def jump_relu(ae: JumpReluAutoEncoder, x: Tensor, bandwidth: float) -> Tensor:
    """Encode as JumpReLU's trainer does, with a gradient to the thresholds.

    Args:
        ae: the dictionary.
        x: rows of the input.
        bandwidth: width of the kernel that gives thresholds a gradient.

    Returns:
        Activations [rows, d_sae].
    """
    acts: Any = JumpReLUFunction.apply(x @ ae.W_enc + ae.b_enc, ae.threshold, bandwidth)
    return acts


@register_regions(AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder, BatchTopKSAE, weights=weights_of)
def _encoded(ae: Any, x: Tensor) -> LinearRegion:
    return DenseRegion(x, weights_of(ae), ae.encode(x.to(next(ae.parameters()).dtype)))


@register_regions(AutoEncoderTopK, weights=weights_of)
def encoded_topk(ae: AutoEncoderTopK, x: Tensor) -> LinearRegion:
    """Find the region of k features a row, whose activations have a gradient.

    Args:
        ae: the dictionary.
        x: rows of the input.

    Returns:
        The region at x.
    """
    # [*batch, d_in] -> [rows, d_in]
    centred = x.reshape(-1, x.shape[-1]).to(ae.b_dec.dtype) - ae.b_dec
    with torch.no_grad():
        # [rows, d_sae] -> [rows, k]
        indices = ae.encoder(centred).topk(int(ae.k), dim=-1, sorted=False).indices
    return topk_region(x, weights_of(ae), ae.encoder, centred, indices)


@row_function.register
def _row_function_of_jump_relu(ae: JumpReluAutoEncoder, x: Tensor, region: LinearRegion) -> Layer:
    """Give thresholds a gradient on the way too, while training."""
    if not isinstance(region, JumpReluRegion):
        return row_function.dispatch(object)(ae, x, region)
    return lambda moved: ae.decode(jump_relu(ae, moved, region.bandwidth))


@row_function.register
def _row_function_of_batch(ae: BatchTopKSAE, x: Tensor, region: LinearRegion) -> Layer:
    """Use the least activation that stayed in the batch as the threshold on the way, while training."""
    if not isinstance(region, BatchRegion):
        return row_function.dispatch(object)(ae, x, region)
    kept = region.values.detach()
    threshold = kept.min() if len(kept) else x.new_tensor(torch.inf)

    def t(moved: Tensor) -> Tensor:
        acts = nn.functional.relu(ae.encoder(moved - ae.b_dec))
        return ae.decode(acts * (acts >= threshold))

    return t
