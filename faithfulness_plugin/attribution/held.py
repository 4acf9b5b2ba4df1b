"""Attention patterns and the scales of norms as constants: what makes a model's derivative at a prompt a linear map
that sums to its values."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from typing_extensions import override

SCALES = {"rsqrt", "sqrt"}
"""Only norms take roots in the forward pass of a language model, of the mean square by which they divide."""
ATTENTION = "scaled_dot_product_attention"


class Held(TorchFunctionMode):
    """Detaches attention patterns and the scales of norms, whichever library computes them.

    A pattern is what a softmax puts out, or what fused attention makes of queries and keys; a scale is a root, or what
    `layer_norm` and `rms_norm` divide by. Values stay as they are, up to rounding. What the model computes otherwise
    keeps its derivative: `Local` checks that the result is linear.

    Example:
        >>> import torch
        >>> x = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
        >>> with Held():
        ...     y = torch.nn.functional.rms_norm(x, (3,))
        >>> torch.testing.assert_close(torch.autograd.grad(y[2], x)[0] @ x, y[2])
    """

    @override
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name == ATTENTION:
            query, key, *rest = args
            with sdpa_kernel(SDPBackend.MATH):  # whose backward pass takes many targets at once
                return func(query.detach(), key.detach(), *rest, **kwargs)
        if name in ("layer_norm", "rms_norm"):
            return _held_norm(func, name == "layer_norm", *args, **kwargs)
        out = func(*args, **kwargs)
        if name == "softmax" or name in SCALES or (name in ("pow", "__pow__") and _is_a_scale(args, kwargs)):
            return out.detach() if isinstance(out, Tensor) else out
        return out


def _is_a_scale(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether this is the power of a mean square by which a norm divides (Gemma 3n and 4)."""
    exponent = args[1] if len(args) > 1 else kwargs.get("exponent")
    return isinstance(exponent, float) and exponent == -0.5


def _held_norm(
    func: Callable[..., Tensor],
    centred: bool,
    x: Tensor,
    shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float | None = 1e-5,
    **kwargs: Any,
) -> Tensor:
    """Compute the norm (x - mean) * weight / s + bias, with s as a constant."""
    more = (weight, bias) if centred else (weight,)
    y = func(x, shape, *more, **({} if eps is None else {"eps": eps}), **kwargs)
    dims = tuple(range(-len(shape), 0))
    x = x - x.mean(dims, keepdim=True) if centred else x
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    scaled = x * torch.rsqrt(x.detach().square().mean(dims, keepdim=True) + eps)
    scaled = scaled if weight is None else scaled * weight
    scaled = scaled if bias is None else scaled + bias
    return scaled + (y - scaled).detach()  # the value is torch's own, to the last bit
