"""Hold one function against another: at random directions, row by row, up to rounding."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

AS_EQUAL = 1e-6
"""Tensors that differ by less, relative to their size, are one tensor under several names."""


def random_signs(like: Tensor, shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    """Draw independent signs, +1 or -1, on the device and of the dtype of another tensor."""
    signs = torch.randint(0, 2, tuple(shape), generator=generator, device=like.device, dtype=like.dtype)
    return signs.mul_(2).sub_(1)


def same_rows(ours: Float[Tensor, "*batch d"], theirs: Tensor) -> bool:
    """Whether they are equal row by row, up to rounding: half of the digits of the row, or of a typical one where that
    is larger. (Not of the rms: one row of a language model can be a thousand times the others.)"""
    if ours.shape != theirs.shape or not theirs.dtype.is_floating_point:
        return False
    eps, ours, theirs = torch.finfo(theirs.dtype).eps, ours.double(), theirs.double()
    errors, norms = (ours - theirs).norm(dim=-1), theirs.norm(dim=-1)
    size = norms.maximum(norms.median()) if norms.numel() else norms
    size = torch.where(size > 0, size, norms.square().mean().sqrt())
    return bool((errors <= eps**0.5 * size).all())


def same_values(one: Tensor | None, other: Tensor | None) -> bool:
    """Return whether two activations are the same tensor, up to the rounding of another way to compute it."""
    if one is None or other is None or one.shape != other.shape:
        return False
    one, other = one.double(), other.double()
    return bool((one - other).norm() <= AS_EQUAL * other.norm())
