"""Whole Jacobians, one column a probe: for small widths, and as the truth that estimates are held against."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.jacobian.closed_form import transcoder_jvp
from faithfulness_plugin.layer import Layer, layer_jvp


def layer_jacobian(layer: Layer, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out d_in"]:
    """J_f(x) by d_in forward-mode products, without a graph. At a kink it takes torch's convention (|x|: 0)."""
    return layer_jvp(layer, x, _unit_probes(x))[1].movedim(0, -1)


def transcoder_jacobian(transcoder: nn.Module, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out d_in"]:
    """J_t(x), columns by `transcoder_jvp`, with a graph."""
    return transcoder_jvp(transcoder, x, _unit_probes(x))[1].movedim(0, -1)


def _unit_probes(x: Tensor) -> Tensor:
    """[d_in, ..., d_in]: probe i is the unit vector e_i on every row."""
    d_in = x.shape[-1]
    eye = torch.eye(d_in, dtype=x.dtype, device=x.device)
    return eye.reshape(d_in, *(1,) * (x.ndim - 1), d_in).expand(d_in, *x.shape)
