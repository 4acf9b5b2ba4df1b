"""Where a feature fires and none of its near-duplicates does: what makes it a feature of its own."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor

from faithfulness_plugin.inspection.duplicate_features import near_duplicate_pairs
from faithfulness_plugin.inspection.top_rows import TopRows

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE

MOST = 2
"""Rows to remember of each feature."""


class AloneRows:
    """Keeps the largest activations of features that have near-duplicates, at rows where none of these fires.

    Args:
        transcoder: whose features are compared.
        groups: the group of near-duplicates that each row of the sample belongs to.
    """

    def __init__(self, transcoder: "SAE[Any]", groups: Int[Tensor, " rows"]) -> None:
        W_enc, W_dec = (W.detach().float().cpu().numpy() for W in (transcoder.W_enc, transcoder.W_dec))
        pairs = near_duplicate_pairs(W_enc, W_dec)
        self.having = np.flatnonzero(np.diff(pairs.indptr))
        self.near: Int[np.ndarray, " d_sae"] = np.diff(pairs.indptr)
        """How many near-duplicates each feature has."""
        self.pairs = pairs[self.having][:, self.having]
        self.tops = TopRows(groups, len(W_dec), MOST)

    def add(self, acts: Any, first_row: int) -> None:
        """Add the activations of further rows.

        Args:
            acts: a sparse matrix [rows, d_sae].
            first_row: the index in the sample of the first of these rows.
        """
        if not len(self.having):
            return
        own = acts[:, self.having]
        # how many of its near-duplicates fire beside each feature, at rows where any does
        beside = (own > 0).astype(float) @ self.pairs
        alone = csr_array(own - own.multiply(beside > 0))
        alone.eliminate_zeros()
        whole = (alone.data, self.having[alone.indices], alone.indptr)
        self.tops.add(csr_array(whole, shape=acts.shape), first_row)

    @property
    def rows(self) -> Int[np.ndarray, "d_sae most"]:
        """-1 where there are fewer."""
        return self.tops.rows

    @property
    def activations(self) -> Float[np.ndarray, "d_sae most"]:
        return self.tops.values
