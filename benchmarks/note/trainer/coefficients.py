"""The numbers in which an ensemble's members may differ, as tensors."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def numbers_of(configs: Sequence[Any], name: str) -> Float[Tensor, " n"]:
    """Stack one field of each config.

    Args:
        configs: of all members.
        name: the field.

    Returns:
        Its values, in the configs' dtype and on their device.
    """
    first = configs[0]
    return torch.tensor(
        [getattr(config, name) for config in configs], dtype=getattr(torch, first.dtype), device=first.device
    )


class Coefficient:
    """One coefficient of each member, which grows linearly from 0 over its warm-up, as SAELens's do.

    Args:
        configs: of all members.
        name: the field of the final value.
        warm_up: the field of the warm-up's steps; None for a coefficient without one.
    """

    def __init__(self, configs: Sequence[Any], name: str, warm_up: str | None = None) -> None:
        self.final = numbers_of(configs, name)
        self._warm_up = torch.zeros_like(self.final) if warm_up is None else numbers_of(configs, warm_up)
        self._last = self._warm_up.max().item()

    def at(self, step: int) -> Float[Tensor, " n"]:
        """Compute the values at a step.

        Args:
            step: its number, the first being 0.

        Returns:
            Each member's value.
        """
        if step >= self._last:
            return self.final
        return self.final * torch.where(self._warm_up > step, step / self._warm_up, 1)
