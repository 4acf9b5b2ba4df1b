"""Where in a text features fire: at which positions of a prompt, and on which tokens."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.inspection.sample import Origins

BINS = 8
MOST = 6
"""Tokens that are remembered of each feature."""
ENTRIES = 20_000_000
"""Pairs of a feature and a token that are counted at a time; where there are more, those met once are forgotten."""


@dataclass(frozen=True)
class FiringPlaces:
    """How often features fire by position and by token."""

    first: Int[np.ndarray, " bins"]
    """The first position of each bin."""
    by_position: Float[np.ndarray, "d_sae bins"]
    """The share of the rows in each bin of positions at which it fires; 0 in a bin without rows."""
    tokens: Int[np.ndarray, "d_sae most"]
    """The tokens on which it fires most often; -1 where there are fewer."""
    counts: Int[np.ndarray, "d_sae most"]
    """How often it fires on each."""
    rates: Float[np.ndarray, "d_sae most"]
    """The same as a share of the rows of that token."""

    __repr__ = short_repr


class PlaceCounts:
    """Counts firings by position and token, part by part of a sample.

    Args:
        origins: of the sample's rows.
        d_sae: the number of features.
    """

    def __init__(self, origins: Origins, d_sae: int) -> None:
        n_pos = origins.tokens.shape[1]
        self.n_bins = min(BINS, n_pos)
        self.bin_of = (origins.position * self.n_bins // n_pos).numpy()
        self.first = -(-np.arange(self.n_bins) * n_pos // self.n_bins)
        ids = origins.tokens[origins.prompt, origins.position].numpy()
        self.ids, self.token_of = np.unique(ids, return_inverse=True)
        self.in_bins = np.zeros(d_sae * self.n_bins, dtype=np.int64)
        self.on_tokens = csr_array((d_sae, len(self.ids)), dtype=np.int32)

    def add(self, row: Int[np.ndarray, " entries"], feature: Int[np.ndarray, " entries"]) -> None:
        """Count further firings.

        Args:
            row: the row in the sample of each.
            feature: which feature fires there.
        """
        bins = feature * np.int64(self.n_bins) + self.bin_of[row]
        self.in_bins += np.bincount(bins, minlength=len(self.in_bins))
        ones = np.ones(len(row), dtype=np.int32)
        self.on_tokens = self.on_tokens + csr_array((ones, (feature, self.token_of[row])), shape=self.on_tokens.shape)
        if self.on_tokens.nnz > ENTRIES:
            self.on_tokens.data[self.on_tokens.data == 1] = 0
            self.on_tokens.eliminate_zeros()

    def places(self) -> FiringPlaces:
        """Compute the rates of the firings that were counted.

        Returns:
            Rates by position, and the tokens of each feature.
        """
        rows_in, rows_of = np.bincount(self.bin_of, minlength=self.n_bins), np.bincount(self.token_of)
        counts: Any = self.on_tokens
        # feature after feature, the largest count first
        feature = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        order = np.lexsort((counts.indices, -counts.data, feature))
        place = np.arange(len(order)) - counts.indptr[feature]
        order, at = order[place < MOST], (feature[place < MOST], place[place < MOST])
        tokens, found = np.full((counts.shape[0], MOST), -1), np.zeros((counts.shape[0], MOST), dtype=np.int64)
        rates = np.zeros((counts.shape[0], MOST))
        tokens[at], found[at] = self.ids[counts.indices[order]], counts.data[order]
        rates[at] = counts.data[order] / rows_of[counts.indices[order]]
        in_bins = self.in_bins.reshape(-1, self.n_bins) / np.maximum(rows_in, 1)
        return FiringPlaces(self.first, in_bins, tokens, found, rates)
