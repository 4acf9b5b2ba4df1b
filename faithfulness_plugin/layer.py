"""The layer that a transcoder replaces: its output and its directional derivative."""

import threading
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Layer = Callable[[Tensor], Tensor]
"""The function that is replaced, row-wise: [..., d_in] -> [..., d_out]. Any callable."""

# Forward-mode AD keeps one global level per process: two threads inside it break each other.
FORWARD_AD_LOCK = threading.RLock()


@torch.no_grad()
def layer_jvp(
    layer: Layer, x: Float[Tensor, "*batch d_in"], v: Float[Tensor, "*probes_batch d_in"]
) -> tuple[Float[Tensor, "*batch d_out"], Float[Tensor, "*probes_batch d_out"]]:
    """The layer's output and its derivative along v: (f(x), J_f(x) v).

    One forward-mode pass a probe; exact, no graph is kept, the layer's parameters get no gradient.

    Args:
        layer: any callable, row-wise.
        x: [..., d_in].
        v: one probe a row, [..., d_in], or several, [n_probes, ..., d_in].

    Returns:
        y [..., d_out] and Jv [..., d_out], or [n_probes, ..., d_out] for several probes.

    Raises:
        ValueError: v is neither of x's shape nor of x's shape with n_probes in front.
    """
    if x.is_inference() and not torch.is_inference_mode_enabled():
        x = x.clone()  # autograd refuses inference tensors beside parameters that require a gradient
    return forward_jvp(layer, x, v)


def forward_jvp(
    function: Callable[[Tensor], Tensor], x: Float[Tensor, "*batch d_in"], v: Float[Tensor, "*probes_batch d_in"]
) -> tuple[Float[Tensor, "*batch d_out"], Float[Tensor, "*probes_batch d_out"]]:
    """(function(x), J v) by forward-mode AD, shapes as in `layer_jvp`; with a graph where gradients are on."""
    with FORWARD_AD_LOCK:
        pairs = [torch.func.jvp(function, (x,), (probe.to(x.dtype),))[:2] for probe in each_probe(x, v)]
    y, Jv = pairs[0]
    return y, Jv if v.ndim == x.ndim else torch.stack([Jv for _, Jv in pairs])


def each_probe(x: Float[Tensor, "*batch d_in"], v: Float[Tensor, "*probes_batch d_in"]) -> list[Tensor]:
    """The probes one by one, each of x's shape: a function of [batch, d_in] need not take more dimensions.

    Raises ValueError as `check_probe_shape` does."""
    check_probe_shape(x, v)
    return [v] if v.ndim == x.ndim else list(v)


def check_probe_shape(x: Tensor, v: Tensor) -> None:
    """Raises ValueError unless v is [..., d_in] or [n_probes, ..., d_in] for x [..., d_in]."""
    several = v.ndim == x.ndim + 1 and v.shape[1:] == x.shape and v.shape[0] > 0
    if v.shape != x.shape and not several:
        raise ValueError(
            f"the probes have shape {list(v.shape)} but the inputs {list(x.shape)}: pass v of the inputs' shape, "
            "or with n_probes in front"
        )
