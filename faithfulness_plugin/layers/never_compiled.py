"""Functions that torch.compile leaves out."""

from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any, TypeVar

import torch
import wrapt

FUNCTION = TypeVar("FUNCTION", bound=Callable[..., Any])


def never_compiled(function: FUNCTION) -> FUNCTION:
    """Leave a function out of `torch.compile`: a compiled forward-mode product that fails leaves its level open.

    `torch.compiler.disable` loads the compiler, which takes seconds: it is applied once something else has loaded it.

    Args:
        function: the function, which its module applies this to as a decorator.

    Returns:
        A function of the same signature.
    """
    current: Callable[..., Any] = function

    @wraps(function)
    def eager(*args: Any, **kwargs: Any) -> Any:
        return current(*args, **kwargs)

    @wrapt.when_imported("torch._dynamo")
    def _disable(_: ModuleType) -> None:
        nonlocal current
        current = torch.compiler.disable(function)

    return eager  # pyright: ignore[reportReturnType]  it keeps the signature
