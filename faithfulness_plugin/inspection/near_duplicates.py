"""Which rows of a sample are the same input, or nearly."""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from faithfulness_plugin.seeds import derived_seed

RADIUS = 0.05
ROUNDING = 1e-5  # of a row's norm: copies of a row that was computed twice are no further apart
SKETCH = 32  # numbers that stand for a row
BLOCK = 1024
PAIRS = 4096


class RowSketches:
    """Projects rows to few numbers whose distances are right on average: at random where rows are wider than `SKETCH`;
    narrower rows stay as they are.

    Args:
        d_in: the rows' width.
        seed: decides the projection.
    """

    def __init__(self, d_in: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(derived_seed(seed, "sketches of rows"))
        wide = d_in > SKETCH
        self.projection = torch.randn(d_in, SKETCH, generator=generator) / SKETCH**0.5 if wide else None

    def __call__(self, x: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows sketch"]:
        """Return sketches with E ||sketch(x) - sketch(x')||^2 = ||x - x'||^2."""
        x = x.detach().cpu().float()
        return x if self.projection is None else x @ self.projection


def near_duplicates(rows: Float[Tensor, "rows d"], radius: float = RADIUS) -> Int[Tensor, " rows"]:
    """Group rows that are near-duplicates of each other.

    A row joins the first group whose first row is within `radius` times the typical distance of two rows (the median of
    pairs drawn at random, which a few huge rows do not move); if there is none, it begins one. So no group is wider
    than twice that, whatever lies between (chains of neighbours would join all of a dense region). Rows that differ by
    rounding alone, 1e-5 of a row's norm, are near-duplicates at any radius.

    Args:
        rows: the rows, or sketches of them.
        radius: as a share of the typical distance.

    Returns:
        The group of each row, numbered from 0 by their first rows; a row alone is a group of one.

    Raises:
        ValueError: no rows, or a radius outside [0, 1).
    """
    if not len(rows):
        raise ValueError("there is no row to compare: pass a sample with rows")
    if not 0 <= radius < 1:
        raise ValueError(f"radius={radius} is a part of the typical distance of two rows: choose it in [0, 1)")
    wide = rows.detach().cpu().double().numpy()
    x, first, same = np.unique(wide, axis=0, return_index=True, return_inverse=True)  # exact copies cost nothing
    within = np.maximum(radius * typical_distance(wide), ROUNDING * np.linalg.norm(x, axis=1))
    order, tree = first.argsort(), KDTree(x)
    group_of, n_groups = np.full(len(x), -1), 0
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        block = block[group_of[block] < 0]
        for row, near in zip(block, tree.query_ball_point(x[block], within[block], workers=-1), strict=True):
            if group_of[row] < 0:
                members = np.asarray(near)
                group_of[members[group_of[members] < 0]] = n_groups
                n_groups += 1
    return torch.from_numpy(group_of[same.reshape(-1)])


def typical_distance(rows: Float[np.ndarray, "rows d"]) -> float:
    """Compute the median distance of two different rows, over pairs drawn at random (the same every time).

    Args:
        rows: at least one.

    Returns:
        The distance; 0 for a single row.
    """
    one, other = np.random.default_rng(0).integers(len(rows), size=(2, PAIRS))
    apart = np.linalg.norm(rows[one] - rows[other], axis=1)[one != other]
    return float(np.median(apart)) if len(apart) else 0.0
