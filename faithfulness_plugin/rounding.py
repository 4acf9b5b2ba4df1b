"""Tell changes from rounding: processors, threads and sizes of a batch round differently."""

import torch
from jaxtyping import Float
from torch import Tensor


def beyond_rounding(before: Float[Tensor, "*batch d"], after: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """Compute after - before, and 0 at rows where rounding explains it: two runs of a layer need not agree to the bit.

    Rounding explains 16 units in the last place of a row's norm, or of the median row's where that is larger (a row of
    zeros may be a difference of numbers that are not); in half precision 1e-5 of it, since there a change of one unit
    is a change that matters.

    Args:
        before: what a layer or a model computed.
        after: the same with another input.

    Returns:
        The change of each row.
    """
    moved = after - before
    rounding = min(16 * torch.finfo(before.dtype).eps, 1e-5)
    sizes = before.norm(dim=-1, keepdim=True)  # [..., 1]
    if sizes.numel():
        sizes = sizes.clamp_min(sizes.median())
    explained = moved.norm(dim=-1, keepdim=True) <= rounding * sizes  # row by row
    return torch.where(explained, torch.zeros_like(moved), moved)
