"""A few of the rows at which each feature fires, evenly spread over all of them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.inspection.hooked_reading import acts_at, rows_of
from faithfulness_plugin.inspection.sample import RowSample

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE

DRAWN = 64


@dataclass(frozen=True)
class DrawnFirings:
    """Rows at which features fire, in the order of the sample; all of them where there are no more than fit."""

    rows: Int[np.ndarray, "d_sae most"]
    """-1 behind the last where a feature fires less often."""
    activations: Float[np.ndarray, "d_sae most"]

    __repr__ = short_repr

    def fewer(self, most: int) -> "DrawnFirings":
        """Keep fewer of each feature's rows, evenly spread again.

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
    """Draws the rows in one pass over the sample, part by part: of n firings the first of each of `most` equal runs.

    Args:
        n_active: how often each feature fires on the whole sample.
        most: rows to keep of each feature.
    """

    def __init__(self, n_active: Int[np.ndarray, " d_sae"], most: int = DRAWN) -> None:
        self.n_active, self.n_drawn = n_active, np.minimum(n_active, most)
        self.seen = np.zeros(len(n_active), dtype=np.int64)
        self.rows: Int[np.ndarray, "d_sae most"] = np.full((len(n_active), most), -1)
        self.activations: Float[np.ndarray, "d_sae most"] = np.zeros((len(n_active), most))

    def add(self, row: Int[Tensor, " entries"], feature: Int[Tensor, " entries"], values: Tensor) -> None:
        """Add the activations of further rows.

        Args:
            row: the row in the sample of each activation, in ascending order.
            feature: whose activation it is.
            values: the activations, [entries].
        """
        self._add(row.numpy(), feature.numpy(), values.numpy())

    def _add(self, row: np.ndarray, feature: np.ndarray, values: np.ndarray) -> None:
        order = np.argsort(feature, kind="stable")  # feature after feature, in the order of rows
        row, feature, values = row[order], feature[order], values[order]
        # which of its feature's firings each one is, counted over all parts
        number = self.seen[feature] + np.arange(len(feature)) - np.searchsorted(feature, feature)
        self.seen += np.bincount(feature, minlength=len(self.seen))
        n, drawn = np.maximum(self.n_active[feature], 1), self.n_drawn[feature]
        run = number * drawn // n
        first = (run != (number - 1) * drawn // n) & (run < drawn)
        at = feature[first], run[first]
        self.rows[at], self.activations[at] = row[first], values[first]

    def drawn(self) -> DrawnFirings:
        """Return what was drawn from the rows that were added.

        Returns:
            Rows and activations.
        """
        return DrawnFirings(self.rows, self.activations)


@torch.no_grad()
def draw_firings(transcoder: "SAE[Any]", sample: RowSample, most: int = DRAWN) -> DrawnFirings:
    """Draw rows at which each feature fires, in two passes over a sample.

    Args:
        transcoder: in `eval` mode.
        sample: the rows.
        most: rows to draw of each feature.

    Returns:
        Rows and activations.
    """
    n_active = np.zeros(len(transcoder.W_dec), dtype=np.int64)
    for _, x in rows_of(sample, transcoder):
        n_active += (acts_at(transcoder, x) > 0).sum(0).cpu().numpy()
    draw = FiringDraw(n_active, most)
    for part, x in rows_of(sample, transcoder):
        draw.add(*active_entries(acts_at(transcoder, x), part.start))
    return draw.drawn()


def active_entries(acts: Float[Tensor, "rows d_sae"], first_row: int) -> tuple[Tensor, Tensor, Tensor]:
    """List activations above 0.

    Args:
        acts: of one part of a sample.
        first_row: the index in the sample of the first of these rows.

    Returns:
        The row in the sample, the feature and the value of each, row after row, on the CPU.
    """
    row, feature = (acts > 0).nonzero(as_tuple=True)
    values = acts[row, feature].double().cpu()
    return row.cpu() + first_row, feature.cpu(), values
