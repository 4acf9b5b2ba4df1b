"""Places in a model where torch's own hooks read or replace an activation: what a module is given, or what it puts out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Side = Literal["input", "output"]


@dataclass(frozen=True)
class View:
    """A tensor that no module puts out, computed from what a module is given and puts out, and back."""

    shown: Callable[[Tensor, Tensor], Tensor]
    """From the module's input and output."""
    output: Callable[[Tensor], Tensor]
    """The output that the module has to put out, so that this tensor is what was put in."""


@dataclass(frozen=True)
class Place:
    """One side of a module, or a view of its output."""

    module: nn.Module
    side: Side
    view: View | None = None

    def register(
        self, hook: Callable[[Tensor], Tensor | None], shape: torch.Size | None = None, *, first: bool = False
    ) -> RemovableHandle:
        """Places a hook, which sees [batch, pos, d] and returns what takes its place, or None.

        Args:
            shape: [batch, pos] of the tokens. Rows of a flattened batch, [batch * pos, d], are shown as if they were
                not flattened.
            first: the hook runs before those that are registered already.
        """

        def seen_by_hook(activation: Any) -> Tensor | None:
            if not isinstance(activation, Tensor):
                return None
            flat = shape is not None and activation.ndim == 2 and len(activation) == shape.numel()
            put_in = hook(activation.reshape(*shape, -1) if flat and shape is not None else activation)
            return put_in if put_in is None else put_in.reshape(activation.shape) if flat else put_in

        def on_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                put_in = seen_by_hook(args[0])
                return None if put_in is None else ((put_in, *args[1:]), kwargs)
            name = _first_tensor(kwargs)
            put_in = None if name is None else seen_by_hook(kwargs[name])
            return None if put_in is None else (args, {**kwargs, name: put_in})

        def on_output(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            own = output[0] if isinstance(output, tuple) else output
            if self.view is None:
                put_in = seen_by_hook(own)
            else:
                given = args[0] if args else kwargs[_first_tensor(kwargs)]
                put_in = seen_by_hook(self.view.shown(given, own))
                put_in = None if put_in is None else self.view.output(put_in).to(own.dtype)
            return None if put_in is None else (put_in, *output[1:]) if isinstance(output, tuple) else put_in

        if self.side == "input":
            return self.module.register_forward_pre_hook(on_input, with_kwargs=True, prepend=first)
        return self.module.register_forward_hook(on_output, with_kwargs=True, prepend=first)


def _first_tensor(kwargs: dict[str, Any]) -> Any:
    """The name of the activation among a module's arguments that are all passed by name."""
    if "hidden_states" in kwargs:
        return "hidden_states"
    return next((name for name, value in kwargs.items() if isinstance(value, Tensor)), None)


def scaled_output(module: nn.Module, scale: float) -> Place:
    """`scale` times what the module puts out."""
    return Place(module, "output", View(lambda _, y: y * scale, lambda shown: shown / scale))


def before_the_scale(norm: nn.Module, x: Float[Tensor, "*rows d"], y: Float[Tensor, "*rows d"]) -> Place | None:
    """What a norm puts out before its own scale and shift: (x - mean) / sqrt(variance + epsilon), or without the mean.

    Args:
        norm: any norm; which one it is is seen from what it makes of x.
        x, y: what it was given, and what it put out.

    Returns:
        The place, or None where y is no scaled norm of x.
    """
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    eps = next((float(e) for n in ("eps", "variance_epsilon") if (e := getattr(norm, n, None)) is not None), 1e-6)
    tolerance = 1e-4 if y.dtype in (torch.float32, torch.float64) else 2e-2

    def normalized(x: Tensor, *, centred: bool) -> Tensor:
        x = x if x.dtype in (torch.float32, torch.float64) else x.float()
        x = x - x.mean(-1, keepdim=True) if centred else x
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)

    scales = [None] if weight is None else [lambda w: w, lambda w: 1 + w]  # Gemma keeps the scale's distance from 1
    for centred in (False, True):
        for scale in scales:
            w = None if scale is None else scale(weight.detach())
            n = normalized(x, centred=centred)
            made = n if w is None else n * w
            made = made if bias is None else made + bias
            if (made - y).abs().max() <= tolerance * y.abs().max():
                return Place(norm, "output", _scale_view(norm, normalized, centred, scale))
    return None


def _scale_view(norm: Any, normalized: Callable[..., Tensor], centred: bool, scale: Any) -> View:
    def output(shown: Tensor) -> Tensor:
        shown = shown if scale is None else shown * scale(norm.weight)
        return shown if getattr(norm, "bias", None) is None else shown + norm.bias

    return View(lambda x, _: normalized(x, centred=centred), output)
