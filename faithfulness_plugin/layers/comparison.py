"""Hold one function against another: at random directions, row by row, up to rounding."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def random_signs(like: Tensor, shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    """Draw independent signs, +1 or -1.

    Args:
        like: the tensor whose device and dtype they get.
        shape: their shape.
        generator: the source of randomness, on that device; None for torch's own.

    Returns:
        The signs.
    """
    signs = torch.randint(0, 2, tuple(shape), generator=generator, device=like.device, dtype=like.dtype)
    return signs.mul_(2).sub_(1)


def same_rows(ours: Float[Tensor, "*batch d"], theirs: Tensor) -> bool:
    """Compare two activations row by row, up to rounding.

    Rounding explains half of the digits of the row, or of a typical one where that is larger. (Not of the rms: one row
    of a language model can be a thousand times the others.)

    Args:
        ours: one activation.
        theirs: the other, whose dtype decides the digits.

    Returns:
        Whether they are equal; False for another shape or for numbers that are not in floating point.
    """
    if ours.shape != theirs.shape or not theirs.dtype.is_floating_point:
        return False
    eps, ours, theirs = torch.finfo(theirs.dtype).eps, ours.double(), theirs.double()
    errors, norms = (ours - theirs).norm(dim=-1), theirs.norm(dim=-1)  # [...], one number a row
    size = norms.maximum(norms.median()) if norms.numel() else norms  # of a typical row at least
    size = torch.where(size > 0, size, norms.square().mean().sqrt())  # where most rows are 0
    return bool((errors <= eps**0.5 * size).all())


def same_values(one: Tensor | None, other: Tensor | None) -> bool:
    """Compare two activations of one forward pass, to the bit.

    They have to agree so exactly because what attention adds to a large residual stream, or a norm makes of rows that
    are nearly normalized, is small.

    Args:
        one: an activation; None where the hook was not passed.
        other: another, likewise.

    Returns:
        Whether they are the same tensor.
    """
    return one is not None and other is not None and one.shape == other.shape and torch.equal(one, other)
