"""How much each feature looks like one that serves a repeated row alone, told without knowing what the layer computes.

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

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor

from faithfulness_plugin.jacobian.active import ActiveFeatures

FLAGGED = 0.5
"""Features with this score or more are flagged: at least that part of the output at a repeated row is their own, and
two of their firings are more often copies than not."""
LEAST_ROWS = 5
"""Of a feature that fired less often the score is 0: there is too little to tell."""


@dataclass(frozen=True)
class DatapointScores:
    """Of every feature."""

    score: Float[np.ndarray, " d_sae"]
    concentration: Float[np.ndarray, " d_sae"]
    alone: Float[np.ndarray, " d_sae"]
    """Of the layer's output at its group, beyond the mean, the part that the feature writes; not cut to [0, 1]."""
    group: Int[np.ndarray, " d_sae"]
    """Where it is most active, of the groups of several rows; -1 where it is active in none."""


class DatapointSums:
    """What the scores are made of, gathered part by part of a sample."""

    def __init__(self, groups: Int[Tensor, " rows"], d_sae: int) -> None:
        copies = groups.bincount()
        self.repeated = (copies > 1).nonzero().flatten()  # a row alone has no copies to fire on
        self.number = torch.full((len(copies),), -1)
        self.number[self.repeated] = torch.arange(len(self.repeated))
        self.groups, self.shape = groups, (d_sae, len(self.repeated))
        self.total, self.squares = np.zeros(d_sae), np.zeros(d_sae)
        self.n_active = np.zeros(d_sae, dtype=np.int64)
        self.sums, self.own_squares, self.written = (csr_array(self.shape) for _ in range(3))
        self.energy = np.zeros(len(self.repeated))

    def add(
        self,
        active: ActiveFeatures,
        values: Float[Tensor, " entries"],
        along: Float[Tensor, " entries"],
        energy: Float[Tensor, " some_rows"],
        first_row: int,
    ) -> None:
        """Further rows: their activations, each a(n) <W_dec, u(n)>, and ||u(n)||^2 of every row."""
        features, a = active.features.numpy(), values.double().numpy()
        d_sae = self.shape[0]
        self.total += np.bincount(features, a, d_sae)
        self.squares += np.bincount(features, a * a, d_sae)
        self.n_active += np.bincount(features, minlength=d_sae)
        here = self.number[self.groups[first_row : first_row + active.n_rows]]
        there = here >= 0
        self.energy += np.bincount(here[there].numpy(), energy[there].double().numpy(), len(self.energy))
        of = here[active.rows].numpy()
        kept = of >= 0
        at = (features[kept], of[kept])
        for name, each in (("sums", a), ("own_squares", a * a), ("written", along.double().numpy())):
            setattr(self, name, getattr(self, name) + csr_array((each[kept], at), shape=self.shape))

    def scores(self) -> DatapointScores:
        """Of all rows that were added."""
        pairs = self.total**2 - self.squares
        copies = self.sums.power(2).sum(1) - self.own_squares.sum(1)
        concentration = np.divide(copies, pairs, out=np.zeros_like(pairs), where=pairs > 1e-12 * self.total**2)
        group, alone = np.full(len(pairs), -1), np.zeros(len(pairs))
        for i in np.flatnonzero(np.diff(self.sums.indptr)):
            part = slice(self.sums.indptr[i], self.sums.indptr[i + 1])
            most = self.sums.indices[part][self.sums.data[part].argmax()]
            group[i] = self.repeated[most]
            alone[i] = self.written[i, most] / self.energy[most] if self.energy[most] else 0.0
        score = concentration.clip(0, 1) * alone.clip(0, 1)
        return DatapointScores(np.where(self.n_active < LEAST_ROWS, 0.0, score), concentration, alone, group)
