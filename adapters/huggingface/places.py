"""Places where torch's own hooks read or replace an activation: what a module is given, or what it puts out."""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.utils.generic import ModelOutput

Side = Literal["input", "output"]
UNNAMED_EPS = (1e-6, 1e-5)
"""What norms that do not say theirs (OLMo's) may add to the variance."""


@dataclass(frozen=True)
class View:
    """A tensor that no module puts out, computed from what a module is given and puts out, and back."""

    shown: Callable[[Tensor, Tensor], Tensor]
    """Computes it from the module's input and output."""
    output: Callable[[Tensor], Tensor]
    """The output that the module has to put out, so that this tensor is what was put in."""


@dataclass(frozen=True)
class Place:
    """One side of a module, or a view of its output."""

    module: nn.Module
    side: Side
    view: View | None = None

    def register(self, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Place a hook.

        Args:
            hook: sees the activation and returns its replacement, or None.

        Returns:
            A handle whose `remove` takes the hook away.
        """

        def see(activation: Any) -> Tensor | None:
            return hook(activation) if isinstance(activation, Tensor) else None

        def on_input(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
            if args:
                put_in = see(args[0])
                return None if put_in is None else ((put_in, *args[1:]), named)
            name = _first(module, named)
            put_in = None if name is None else see(named[name])
            return None if put_in is None else (args, {**named, name: put_in})

        def on_output(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
            if isinstance(output, ModelOutput):
                name = next(iter(output))
                put_in = see(output[name])
                return None if put_in is None else type(output)(**{**output, name: put_in})
            own = output[0] if isinstance(output, tuple) else output
            if self.view is None:
                put_in = see(own)
            else:
                given = args[0] if args else named[_first(module, named) or ""]
                put_in = see(self.view.shown(given, own))
                put_in = None if put_in is None else self.view.output(put_in).to(own.dtype)
            return None if put_in is None else (put_in, *output[1:]) if isinstance(output, tuple) else put_in

        if self.side == "input":
            return self.module.register_forward_pre_hook(on_input, with_kwargs=True)
        return self.module.register_forward_hook(on_output, with_kwargs=True)


def side_of(name: str) -> tuple[str, Side]:
    """Split a tensor's name into a module's and the side that is meant.

    Args:
        name: a module's, with .input, .output or nothing behind it.

    Returns:
        The module's name, and its side: the output, if nothing is said.
    """
    if name.endswith(".input"):
        return name.removesuffix(".input"), "input"
    return name.removesuffix(".output"), "output"


def whole_name(name: str, modules: Sequence[str]) -> str | None:
    """Complete a module's name.

    Args:
        name: a module's whole name, or its end with a number in it.
        modules: the names of all modules.

    Returns:
        The module of that name, or the only one that ends in it; None for none or several.
    """
    if name in modules:
        return name
    ends = [own for own in modules if own.endswith("." + name)]
    return ends[0] if len(ends) == 1 and re.search(r"(^|\.)\d+(\.|$)", name) else None


def _first(module: nn.Module, named: dict[str, Any]) -> str | None:
    """Return the name of a module's first argument, where all are passed by name."""
    parameters = inspect.signature(module.forward).parameters
    return next((parameter for parameter in (*parameters, *named) if parameter in named), None)


def scaled_output(module: nn.Module, scale: float) -> Place:
    """Describe a tensor that is a multiple of a module's output.

    Args:
        module: the module.
        scale: the factor.

    Returns:
        The tensor's place.
    """
    return Place(module, "output", View(lambda _, y: y * scale, lambda shown: shown / scale))


def before_the_scale(norm: nn.Module, x: Float[Tensor, "*rows d"], y: Float[Tensor, "*rows d"]) -> Place | None:
    """Find what a norm puts out before its own scale and shift: (x - mean) / sqrt(variance + epsilon), or without the
    mean.

    Args:
        norm: any norm; which one it is follows from what it makes of x.
        x: what it was given.
        y: what it put out.

    Returns:
        The place, or None where y is no scaled norm of x.
    """
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    known = [float(e) for n in ("eps", "variance_epsilon") if (e := getattr(norm, n, None)) is not None]
    tolerance = 1e-4 if y.dtype in (torch.float32, torch.float64) else 2e-2

    def normalized(x: Tensor, *, centred: bool, eps: float) -> Tensor:
        x = x if x.dtype in (torch.float32, torch.float64) else x.float()
        x = x - x.mean(-1, keepdim=True) if centred else x
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)

    scales = [None] if weight is None else [lambda w: w, lambda w: 1 + w]  # Gemma keeps the scale's distance from 1
    for eps, centred, scale in product(known or UNNAMED_EPS, (False, True), scales):
        w = None if scale is None or weight is None else scale(weight.detach())
        n = normalized(x, centred=centred, eps=eps)
        made = n if w is None else n * w
        made = made if bias is None else made + bias
        if (made - y).abs().max() <= tolerance * y.abs().max():
            if weight is None and bias is None:  # OLMo's norm: the two are one tensor
                return Place(norm, "output")
            return Place(norm, "output", _scale_view(norm, partial(normalized, centred=centred, eps=eps), scale))
    return None


def _scale_view(norm: Any, normalized: Callable[[Tensor], Tensor], scale: Any) -> View:
    def output(shown: Tensor) -> Tensor:
        shown = shown if scale is None else shown * scale(norm.weight)
        return shown if getattr(norm, "bias", None) is None else shown + norm.bias

    return View(lambda x, _: normalized(x), output)
