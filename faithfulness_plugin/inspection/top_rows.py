"""The rows at which each feature is most active, found in one pass over any number of rows."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from faithfulness_plugin.inspection.activations import row_numbers


class TopRows:
    """Keeps the largest activations of each feature in different groups of near-duplicates: one row stands for its
    copies, and the first row for equal activations.

    Args:
        groups: the group that each row of the sample belongs to.
        d_sae: the number of features.
        most: rows to keep of each feature.
    """

    def __init__(self, groups: Int[Tensor, " rows"], d_sae: int, most: int) -> None:
        self.groups = groups.numpy()
        self.n_groups = int(self.groups.max(initial=0)) + 1
        self.values: Float[np.ndarray, "d_sae most"] = np.zeros((d_sae, most))
        self.rows: Int[np.ndarray, "d_sae most"] = np.full((d_sae, most), -1)
        """-1 where a feature has fired in fewer groups."""

    def add(self, acts: Any, first_row: int) -> None:
        """Add the activations of further rows.

        Args:
            acts: [rows, d_sae].
            first_row: the index in the sample of the first of these rows.
        """
        # only entries above the feature's least kept activation can change anything
        new = np.flatnonzero(acts.data > self.values[acts.indices, -1])
        touched = np.zeros(len(self.rows), dtype=bool)
        touched[acts.indices[new]] = True
        # kept and new entries of the features that change, as flat lists of (feature, row, value)
        known, place = np.nonzero((self.rows >= 0) & touched[:, None])
        rows = row_numbers(acts, first_row)[new]
        feature = np.concatenate([known, acts.indices[new]])
        row = np.concatenate([self.rows[known, place], rows])
        value = np.concatenate([self.values[known, place], acts.data[new]])
        # by feature, then largest value, then first row
        order = np.lexsort((row, -value, feature))
        in_group = feature[order].astype(np.int64) * self.n_groups + self.groups[row[order]]
        order = order[
            np.sort(np.unique(in_group, return_index=True)[1])
        ]  # the first, and so the largest, of each group
        # the rank of each entry within its feature
        place = np.arange(len(order)) - np.searchsorted(feature[order], feature[order])
        order, place = order[place < self.rows.shape[1]], place[place < self.rows.shape[1]]
        self.rows[touched], self.values[touched] = -1, 0.0
        self.rows[feature[order], place], self.values[feature[order], place] = row[order], value[order]
