"""Examples from all of a feature's activations, not from the largest alone."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.inspection.drawn_firings import DrawnFirings

QUANTILES = (0.25, 0.5, 0.75)
BANDS = 3
"""Below the top: from the median to the upper quartile, from the lower quartile to the median, and below that."""
EACH = 2
"""Rows of each band."""


@dataclass(frozen=True)
class ActivationBands:
    """Quartiles of the activations where a feature fires, and rows from three bands between them, the upper first."""

    quartiles: Float[np.ndarray, "d_sae 3"]
    """Of the drawn firings; 0 for a feature that never fires."""
    rows: Int[np.ndarray, "d_sae bands each"]
    """-1 where there are fewer: firings that are among the top rows are left out."""
    activations: Float[np.ndarray, "d_sae bands each"]

    __repr__ = short_repr


def activation_bands(drawn: DrawnFirings, top_rows: Int[np.ndarray, "d_sae top"]) -> ActivationBands:
    """Divide the drawn firings of each feature by their activations, and choose two of each band.

    Args:
        drawn: rows at which it fires, at random.
        top_rows: rows that are shown already.

    Returns:
        Quartiles and rows.
    """
    n = (drawn.rows >= 0).sum(1)
    # the drawn firings of each feature, the smallest activation first, empty places last
    order = np.where(drawn.rows >= 0, drawn.activations, np.inf).argsort(1, kind="stable")
    rows, values = (np.take_along_axis(each, order, 1) for each in (drawn.rows, drawn.activations))
    # ranks at a quarter and at three quarters of each band, [bands, each]
    within = (np.arange(BANDS)[::-1, None] + (np.arange(EACH) * 2 + 1)[None] / (2 * EACH)) / 4
    places = np.floor(n[:, None, None] * within).astype(int).reshape(len(n), -1)
    chosen, activations = (np.take_along_axis(each, places, 1) for each in (rows, values))
    shown = (chosen[:, :, None] == top_rows[:, None]).any(2)
    first = np.ones_like(shown)
    for k in range(1, places.shape[1]):  # a row stands in one band
        first[:, k] = (places[:, k : k + 1] != places[:, :k]).all(1)
    kept = first & ~shown & (n > 0)[:, None]
    at = np.floor(np.array(QUANTILES)[None] * np.maximum(n - 1, 0)[:, None]).astype(int)
    shape = (len(n), BANDS, EACH)
    return ActivationBands(
        quartiles=np.where(n[:, None] > 0, np.take_along_axis(values, at, 1), 0.0),
        rows=np.where(kept, chosen, -1).reshape(shape),
        activations=np.where(kept, activations, 0.0).reshape(shape),
    )
