"""Routers that convert their own weights whenever they run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn


def converting_routers(model: nn.Module) -> list[nn.Module]:
    """Find the linear layers of routers that convert them to a dtype of their own in every run, as Switch Transformers
    and NLLB-MoE do. They are converted once, here.

    Args:
        model: a Hugging Face model, or a part of one.

    Returns:
        The layers.
    """
    routers = [module for module in model.modules() if type(module).__name__.endswith("Router")]
    linears = [(router, getattr(router, "classifier", None)) for router in routers]
    return [linear.to(dtype=router.dtype) for router, linear in linears if isinstance(linear, nn.Linear)]  # pyright: ignore[reportCallIssue, reportArgumentType]  a dtype


@contextmanager
def left_as_they_are(linears: Sequence[nn.Module]) -> Iterator[None]:
    """Keep routers from being converted. Inside forward-mode differentiation a conversion would leave tensors of the
    differentiation in the model, and torch ends the process when they are used again.

    Args:
        linears: from `converting_routers`.

    Yields:
        Nothing; they convert again afterwards.
    """
    for linear in linears:
        linear.to = lambda *_, linear=linear, **__: linear  # pyright: ignore  shadows the method of this one module
    try:
        yield
    finally:
        for linear in linears:
            vars(linear).pop("to", None)
