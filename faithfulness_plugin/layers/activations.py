"""Activations by name, so that a layer's weights can be kept in a file and be the layer again."""

from collections.abc import Callable
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

Activation = Callable[[Tensor], Tensor]
TOLERANCE = 1e-6
"""Relative to 1 + |value|: some libraries compute in single precision. Two different ones here are 1e-4 apart."""


def _gelu_tanh(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _squared_relu(x: Tensor) -> Tensor:
    return torch.relu(x).square()


def _identity(x: Tensor) -> Tensor:
    return x


ACTIVATIONS = MappingProxyType(
    {
        "relu": torch.relu,
        "relu2": _squared_relu,
        "relu6": functional.relu6,
        "leaky_relu": functional.leaky_relu,
        "elu": functional.elu,
        "selu": functional.selu,
        "gelu": functional.gelu,
        "gelu_tanh": _gelu_tanh,
        "quick_gelu": _quick_gelu,
        "silu": functional.silu,
        "mish": functional.mish,
        "softplus": functional.softplus,
        "hardswish": functional.hardswish,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "identity": _identity,
    }
)
"""Elementwise activations without parameters of their own."""


@torch.no_grad()
def activation_name(act: Activation) -> str | None:
    """Name an activation by its values: libraries have many spellings of one function.

    Args:
        act: a function, a module or a module's `forward`.

    Returns:
        The name in `ACTIVATIONS` of the function that has the same values; None where none has.

    Example:
        >>> activation_name(torch.nn.GELU(approximate="tanh").forward)
        'gelu_tanh'
        >>> activation_name(torch.sin) is None
        True
    """
    x = torch.linspace(-30, 30, 6001, dtype=torch.float64)
    try:
        values = act(x)
    except (RuntimeError, TypeError, ValueError):  # it has parameters of its own, or does not take single numbers
        return None
    if not isinstance(values, Tensor) or values.shape != x.shape:
        return None
    errors = {name: _difference(known(x), values.double()) for name, known in ACTIVATIONS.items()}
    nearest = min(errors, key=errors.__getitem__)
    return nearest if errors[nearest] <= TOLERANCE else None


def called(act: Activation) -> str:
    """Return what a message calls an activation that has no name here.

    Args:
        act: as in `activation_name`.

    Returns:
        The name of its class, or of the function.
    """
    module = getattr(act, "__self__", act)
    return type(module).__name__ if isinstance(module, torch.nn.Module) else getattr(act, "__name__", repr(act))


def _difference(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs() / (1 + ours.abs())).max().nan_to_num(torch.inf).item()
