"""How much each feature looks like one that serves a repeated row alone, without knowing what the layer computes.

A feature of the layer's own mechanism fires on many different inputs. A datapoint feature fires on copies of one, and
writes most of what the layer writes there. So, with a(n) a feature's activation at row n, g groups of near-duplicates,
and u(n) = f(x_n) - E f:

    concentration = sum_g sum_{n != m in g} a(n) a(m) / sum_{n != m} a(n) a(m)
    alone         = sum_{n in h} a(n) <W_dec, u(n)> / sum_{n in h} ||u(n)||^2,   h the group where it is most active
    score         = concentration * alone, alone cut to [0, 1]

The concentration is the probability that two of its firings, drawn in proportion to activation, are the same input
(Simpson's index, without the firings themselves, so that rare firing alone is not concentrated). A feature of the
layer that happens to be active at the repeated row as well has less of both.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor

from faithfulness_plugin.display import short_repr

FLAGGED = 0.5
"""Features with this score or more are flagged: at least that part of the output at a repeated row is their own, and
two of their firings are more often copies than not."""
LEAST_ROWS = 5
"""A feature that fired less often has the score 0: there is too little to tell."""


@dataclass(frozen=True)
class DatapointScores:
    """The score of every feature, and what it is made of."""

    score: Float[np.ndarray, " d_sae"]
    concentration: Float[np.ndarray, " d_sae"]
    alone: Float[np.ndarray, " d_sae"]
    """The part of the layer's output at its group, beyond the mean, that the feature writes; not cut to [0, 1]."""
    group: Int[np.ndarray, " d_sae"]
    """Where it is most active, among the groups of several rows; -1 where it is active in none."""

    __repr__ = short_repr


class DatapointSums:
    """Gathers, part by part of a sample, the sums over rows that the scores are computed from.

    Args:
        groups: the group of near-duplicates of each row of the sample.
        d_sae: the number of features.
    """

    def __init__(self, groups: Int[Tensor, " rows"], d_sae: int) -> None:
        of_row, copies = groups.numpy(), groups.bincount().numpy()
        self.repeated = np.flatnonzero(copies > 1)  # a row alone has no copies to fire on
        rows = np.flatnonzero(copies[of_row] > 1)
        place = np.searchsorted(self.repeated, of_row[rows])
        # [rows, repeated groups], 1 where a row belongs to the group; rows without copies are all 0
        self.in_group = csr_array((np.ones(len(rows)), (rows, place)), shape=(len(groups), len(self.repeated)))
        self.total, self.squares, self.along = (np.zeros(d_sae) for _ in range(3))
        self.n_active = np.zeros(d_sae, dtype=np.int64)
        self.sums, self.own_squares, self.written = (csr_array((d_sae, len(self.repeated))) for _ in range(3))
        self.energy = np.zeros(len(self.repeated))

    def add(self, acts: Any, along: Any, energy: Float[np.ndarray, " some_rows"], part: slice) -> None:
        """Add one part of the sample to the sums.

        Args:
            acts: activations a(n), [some_rows, d_sae].
            along: a(n) <W_dec, u(n)>, [some_rows, d_sae].
            energy: ||u(n)||^2 of each row.
            part: which rows of the sample these are.
        """
        in_group, squares = self.in_group[part], acts.power(2)
        self.total += acts.sum(0)
        self.squares += squares.sum(0)
        self.along += along.sum(0)
        self.n_active += np.bincount(acts.indices, minlength=len(self.total))
        # [d_sae, some_rows] @ [some_rows, groups]: sums of a, a^2 and a <W_dec, u> over each group's rows
        self.sums = self.sums + acts.T @ in_group
        self.own_squares = self.own_squares + squares.T @ in_group
        self.written = self.written + along.T @ in_group
        self.energy += in_group.T @ energy

    def scores(self) -> DatapointScores:
        """Compute every feature's score over all rows that were added.

        Returns:
            The scores, and the concentration, share and group that they are made of.
        """
        # sum over n != m of a(n) a(m) is (sum a)^2 - sum a^2: over all rows, and group by group
        pairs = self.total**2 - self.squares
        copies = self.sums.power(2).sum(1) - self.own_squares.sum(1)
        concentration = np.divide(copies, pairs, out=np.zeros_like(pairs), where=pairs > 1e-12 * self.total**2)
        group, alone = np.full(len(pairs), -1), np.zeros(len(pairs))
        # a row of the sparse [d_sae, groups] at a time: the group where the feature is most active
        for i in np.flatnonzero(np.diff(self.sums.indptr)):
            part = slice(self.sums.indptr[i], self.sums.indptr[i + 1])
            most = self.sums.indices[part][self.sums.data[part].argmax()]
            group[i] = self.repeated[most]
            alone[i] = self.written[i, most] / self.energy[most] if self.energy[most] else 0.0
        score = concentration.clip(0, 1) * alone.clip(0, 1)
        return DatapointScores(np.where(self.n_active < LEAST_ROWS, 0.0, score), concentration, alone, group)
