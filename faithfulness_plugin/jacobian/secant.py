"""The derivative over a finite step: what a function does on the way from x to x + step v."""

from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.layer import Layer, each_probe


@torch.no_grad()
def layer_secant(
    layer: Layer,
    x: Float[Tensor, "*batch d_in"],
    v: Float[Tensor, "*probes_batch d_in"],
    step: Float[Tensor, ""] | float,
) -> tuple[Float[Tensor, "*batch d_out"], Float[Tensor, "*probes_batch d_out"]]:
    """(f(x), (f(x + step v) - f(x)) / step): tends to (f(x), J_f v) as step goes to 0. No graph is kept.

    Shapes as in `layer_jvp`. Needs no derivative of the layer, and sees its kinks at their true weight.
    """
    y = layer(x)
    return y, _difference_quotient(layer, x, v, step, y)


def transcoder_secant(
    transcoder: nn.Module,
    x: Float[Tensor, "*batch d_in"],
    v: Float[Tensor, "*probes_batch d_in"],
    step: Float[Tensor, ""] | float,
    *,
    gate: Float[Tensor, "*batch d_sae"] | None = None,
) -> tuple[Float[Tensor, "*batch d_out"], Float[Tensor, "*probes_batch d_out"]]:
    """(t(x), (t(x + step v) - t(x)) / step) with a graph. Features that switch on the way count, so that,
    unlike Jv, it also trains b_enc. `gate`: the feature activations at x, for a transcoder that can `decode` them."""
    y = transcoder(x) if gate is None else cast(Any, transcoder).decode(gate)
    return y, _difference_quotient(transcoder, x, v, step, y)


def _difference_quotient(
    function: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, step: Tensor | float, y: Tensor
) -> Tensor:
    moved = [function(x + step * probe) for probe in each_probe(x, v)]
    return ((moved[0] if v.ndim == x.ndim else torch.stack(moved)) - y) / step
