"""The control that has no features: the layer's mean Jacobian, one matrix for all rows."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.layers.normed_mlp import LayerWeights
from faithfulness_plugin.store import DerivativeStore

AT_A_TIME = 8192


@dataclass
class MeanJacobian:
    """E[J_f] over a store's rows, and the bias at which x -> E[J_f] x + bias has the layer's mean output."""

    matrix: Float[Tensor, "d_out d_in"]
    bias: Float[Tensor, " d_out"]


@torch.no_grad()
def mean_jacobian(store: DerivativeStore, weights: LayerWeights) -> MeanJacobian:
    """Average a layer's Jacobian over the rows of a store, exactly: E[J_f] = sum_m E[h_m] W_out[m] (x) W_in[:, m].

    Args:
        store: a full one.
        weights: the layer's; rows x are the store's, whatever layer that is.

    Returns:
        The matrix, and E f - E[J_f] E x.
    """
    dtype, device = weights.W_in.dtype, weights.W_in.device
    matrix, mean_x, mean_y, n = 0.0, 0.0, 0.0, store.index.n_rows
    for shard in range(store.index.n_shards):
        for rows in store.read_shard(shard, None)["x"].split(AT_A_TIME):
            x = rows.to(device, dtype)
            terms = weights.jacobian(x)  # sum_m h_m W_out[m] (x) W_in[:, m] of each row, h [rows, m]
            # only h differs from row to row, so that the mean over rows is one matrix product
            part = (terms.W_out.T * terms.h.sum(0)) @ terms.W_in.T  # [d_out, m] @ [m, d_in]
            if terms.left is not None and terms.right is not None:
                part = part + terms.left.T @ terms.right  # sum over rows of left (x) right
            matrix, mean_x = matrix + part.double() / n, mean_x + x.double().sum(0) / n
            mean_y = mean_y + weights.output(x).double().sum(0) / n
    bias = torch.as_tensor(mean_y) - torch.as_tensor(matrix) @ torch.as_tensor(mean_x)
    return MeanJacobian(torch.as_tensor(matrix).to(dtype), bias.to(dtype))


@torch.no_grad()
def become_constant(transcoder: Any, mean: MeanJacobian) -> None:
    """Turn a transcoder into the constant map: no feature ever fires.

    Args:
        transcoder: one with a skip connection; is changed.
        mean: the layer's.
    """
    for weight in (transcoder.W_enc, transcoder.b_enc, transcoder.W_dec):
        weight.zero_()
    begin_at(transcoder, mean)


@torch.no_grad()
def begin_at(transcoder: Any, mean: MeanJacobian, *, frozen: bool = False) -> None:
    """Let a transcoder's skip connection and bias begin at the constant map.

    Args:
        transcoder: one with a skip connection; is changed.
        mean: the layer's.
        frozen: whether the skip connection stays there in training.
    """
    transcoder.W_skip.copy_(mean.matrix)
    transcoder.b_dec.copy_(mean.bias)
    transcoder.W_skip.requires_grad_(not frozen)
