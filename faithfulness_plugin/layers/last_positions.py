"""Logits at a model's last positions alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def of_last_positions(unembedding: nn.Module | None, n: int | None, length: int | None) -> Iterator[None]:
    """Let the unembedding read the last positions alone, in this thread.

    Args:
        unembedding: the module that is given [batch, length, d] and puts out logits; None where it is not known.
        n: how many positions; None for all.
        length: positions of a prompt; None for inputs that are no tokens.

    Yields:
        Nothing.
    """
    if unembedding is None or n is None or length is None:
        yield
        return
    here = threading.get_ident()

    def cut(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        ours = threading.get_ident() == here and args and isinstance(args[0], Tensor)
        if not ours or args[0].ndim != 3 or args[0].shape[1] != length:
            return None
        return args[0][:, -n:], *args[1:]

    handle = unembedding.register_forward_pre_hook(cut)
    try:
        yield
    finally:
        handle.remove()
