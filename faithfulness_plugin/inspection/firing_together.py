"""Features of one transcoder that fire on the same rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array, vstack
from scipy.stats import poisson

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.inspection.activations import Activations
from faithfulness_plugin.inspection.sample import GIB, RowSample
from faithfulness_plugin.store.kept_rows import evenly

MOST = 6
"""Features to remember of each."""
ROWS = 16_384
LEAST = 5
"""Rows on which two features have to fire both."""
BY_CHANCE = 0.01
"""As many features at most would be listed for a feature that fires independently of all others."""


@dataclass(frozen=True)
class FiringTogether:
    """The features that fire most on the rows of each one, the largest phi first."""

    features: Int[np.ndarray, "d_sae most"]
    """-1 where there are fewer."""
    phi: Float[np.ndarray, "d_sae most"]
    """The correlation of the two being active: 1 where they fire on the same rows, 0 where they do so as often as
    chance has it."""
    share: Float[np.ndarray, "d_sae most"]
    """On which share of the rows where the feature fires the other one does."""
    rates: Float[np.ndarray, " d_sae"]
    """Firing rates on these rows: the share that chance would give."""
    n_rows: int
    """How many rows were looked at, near-duplicates counted once."""

    __repr__ = short_repr


def firing_together(activations: Activations, sample: RowSample, most: int = MOST) -> FiringTogether:
    """Find the features that fire together more than chance has it.

    With n_i the rows on which i fires, n_ij those on which both do, and n all rows,

        phi = (n n_ij - n_i n_j) / (n_i (n - n_i) n_j (n - n_j))^(1/2).

    Listed are pairs with 5 common rows or more, of which chance (a Poisson distribution with mean n_i n_j / n) would
    give less than .01 a feature. Near-duplicates among rows count once: copies of one input are no evidence. Counts of
    pairs are made of parts of the features and kept where they are not 0.

    Args:
        activations: a transcoder's on the sample.
        sample: rows of its layer; 16,384 at most are looked at, evenly spread.
        most: features to remember of each.

    Returns:
        The features, their phi, and shares.
    """
    groups = sample.groups.numpy()
    first = np.sort(np.unique(groups, return_index=True)[1])
    rows = first[evenly(len(first), ROWS)]
    d_sae, wanted = activations.d_sae, np.isin(np.arange(len(sample)), rows)
    parts = [
        csr_array(activations.part(part) > 0, dtype=np.float32)[wanted[part]]
        for part in activations.parts(sample.memory)
    ]
    fires: Any = csr_array(vstack(parts))  # [rows, d_sae]
    by_feature: Any = csr_array(fires.T)
    n_i, n = np.diff(by_feature.indptr).astype(float), len(rows)
    features, phi, share = np.full((d_sae, most), -1), np.zeros((d_sae, most)), np.zeros((d_sae, most))
    size = max(1, int(sample.memory * GIB / 8 / 16 / max(1, d_sae)))
    for start in range(0, d_sae, size):
        both: Any = csr_array(by_feature[start : start + size] @ fires)  # [some, d_sae]
        i, j, n_ij = np.repeat(np.arange(both.shape[0]), np.diff(both.indptr)), both.indices, both.data.astype(float)
        there = (n_ij >= LEAST) & (i + start != j)
        i, j, n_ij = i[there], j[there], n_ij[there]
        one, other = n_i[i + start], n_i[j]
        spread = np.sqrt(one * (n - one) * other * (n - other))
        values = np.divide(n * n_ij - one * other, spread, out=np.zeros(len(i)), where=spread > 0)
        order = np.lexsort((j, -values, i))
        rank = np.arange(len(order)) - np.searchsorted(i[order], i[order])
        order, rank = order[rank < most], rank[rank < most]
        by_chance = poisson.sf(n_ij[order] - 1, one[order] * other[order] / n) * d_sae
        listed = (by_chance < BY_CHANCE) & (values[order] > 0)
        at, order = (i[order][listed] + start, rank[listed]), order[listed]
        features[at], phi[at], share[at] = j[order], values[order], n_ij[order] / n_i[at[0]]
    return FiringTogether(features, phi, share, n_i / n, n)
