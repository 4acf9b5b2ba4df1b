"""A few of the rows at which each feature fires, drawn at random."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.inspection.activations import row_numbers
from faithfulness_plugin.inspection.hooked_reading import acts_at, rows_of
from faithfulness_plugin.inspection.sample import RowSample

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE

DRAWN = 64


@dataclass(frozen=True)
class DrawnFirings:
    """Rows at which features fire, in the order of the sample: drawn at random, or all of them where they fit."""

    rows: Int[np.ndarray, "d_sae most"]
    """-1 behind the last where a feature fires less often."""
    activations: Float[np.ndarray, "d_sae most"]

    __repr__ = short_repr

    def fewer(self, most: int) -> "DrawnFirings":
        """Keep fewer of each feature's rows, evenly spread over those that were drawn.

        Args:
            most: rows to keep of each feature.

        Returns:
            The rows and activations that are kept.
        """
        n = (self.rows >= 0).sum(1, keepdims=True)
        # place j of `most` is taken from place j n / most, and stays where it is if there are no more than fit
        places = np.arange(most)[None] * np.maximum(n, most) // most
        places = np.minimum(places, self.rows.shape[1] - 1)
        return DrawnFirings(*(np.take_along_axis(each, places, 1) for each in (self.rows, self.activations)))


class FiringDraw:
    """Draws the rows in one pass over the sample, part by part: each feature's firings with the smallest of random
    numbers that rows were given, so that any of its firings is as likely as another.

    Args:
        n_rows: of the sample.
        d_sae: the number of features.
        most: rows to draw of each feature.
    """

    def __init__(self, n_rows: int, d_sae: int, most: int = DRAWN) -> None:
        self.number = np.random.default_rng(0).permutation(n_rows)  # the same rows for all features, where they can be
        self.rows: Int[np.ndarray, "d_sae most"] = np.full((d_sae, most), -1)
        self.numbers: Int[np.ndarray, "d_sae most"] = np.full((d_sae, most), n_rows)
        self.activations: Float[np.ndarray, "d_sae most"] = np.zeros((d_sae, most))

    def add(self, acts: Any, first_row: int) -> None:
        """Add the activations of further rows.

        Args:
            acts: a sparse matrix [rows, d_sae].
            first_row: the index in the sample of the first of these rows.
        """
        rows = row_numbers(acts, first_row)
        new = np.flatnonzero((acts.data > 0) & (self.number[rows] < self.numbers[acts.indices, -1]))
        touched = np.zeros(len(self.rows), dtype=bool)
        touched[acts.indices[new]] = True
        # kept and new firings of the features that change, as flat lists
        known = np.nonzero((self.rows >= 0) & touched[:, None])
        feature = np.concatenate([known[0], acts.indices[new]])
        row = np.concatenate([self.rows[known], rows[new]])
        values = np.concatenate([self.activations[known], acts.data[new]])
        order = np.lexsort((self.number[row], feature))
        place = np.arange(len(order)) - np.searchsorted(feature[order], feature[order])
        order, place = order[place < self.rows.shape[1]], place[place < self.rows.shape[1]]
        at = feature[order], place
        self.rows[at], self.numbers[at], self.activations[at] = row[order], self.number[row[order]], values[order]

    def drawn(self) -> DrawnFirings:
        """Return what was drawn from the rows that were added.

        Returns:
            Rows and activations.
        """
        order = np.where(self.rows >= 0, self.rows, np.iinfo(self.rows.dtype).max).argsort(1)
        return DrawnFirings(*(np.take_along_axis(each, order, 1) for each in (self.rows, self.activations)))


@torch.no_grad()
def draw_firings(transcoder: "SAE[Any]", sample: RowSample, most: int = DRAWN) -> DrawnFirings:
    """Draw rows at which each feature fires, in a pass over a sample.

    Args:
        transcoder: in `eval` mode.
        sample: the rows.
        most: rows to draw of each feature.

    Returns:
        Rows and activations.
    """
    draw = FiringDraw(len(sample), len(transcoder.W_dec), most)
    for part, x in rows_of(sample, transcoder):
        draw.add(csr_array(acts_at(transcoder, x).double().cpu().numpy()), part.start)
    return draw.drawn()
