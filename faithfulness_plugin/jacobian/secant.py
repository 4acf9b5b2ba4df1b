"""The derivative over a finite step: what a function does on the way from x to x + step v."""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.layer import Layer, check_probe_shape


@torch.no_grad()
def layer_secant(
    layer: Layer, x: Float[Tensor, "*batch d_in"], v: Float[Tensor, "..."], step: Float[Tensor, ""] | float
) -> tuple[Float[Tensor, "*batch d_out"], Float[Tensor, "..."]]:
    """(f(x), (f(x + step v) - f(x)) / step): tends to (f(x), J_f v) as step goes to 0. No graph is kept.

    Shapes as in `layer_jvp`. Needs no derivative of the layer, and sees its kinks at their true weight.
    """
    check_probe_shape(x, v)
    y = layer(x)
    return y, (layer(x + step * v) - y) / step


def transcoder_secant(
    transcoder: nn.Module,
    x: Float[Tensor, "*batch d_in"],
    v: Float[Tensor, "..."],
    step: Float[Tensor, ""] | float,
    *,
    gate: Float[Tensor, "*batch d_sae"] | None = None,
) -> tuple[Float[Tensor, "*batch d_out"], Float[Tensor, "..."]]:
    """(t(x), (t(x + step v) - t(x)) / step) with a graph. Features that switch on the way count, so that,
    unlike Jv, it also trains b_enc. `gate`: the feature activations at x, for a transcoder that can `decode` them."""
    check_probe_shape(x, v)
    y = transcoder(x) if gate is None else cast(Any, transcoder).decode(gate)
    return y, (transcoder(x + step * v) - y) / step
