"""The figure of the experiment on readability: how rare features are, and how well the text predicts them."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from faithfulness_plugin.benchmarks.readability.analysis import COLUMNS, Column, Group, groups
from faithfulness_plugin.benchmarks.readability.schema import ReadabilityResult
from faithfulness_plugin.benchmarks.real_layers.arms import Arm
from faithfulness_plugin.results.curves import Curve, Panel, curves_figure

BINS = np.linspace(-5, 0, 26)
SHARES = np.linspace(0, 1, 26)
BY_NAME = {column.name: column for column in COLUMNS}


def figures(result: ReadabilityResult) -> Mapping[str, Figure]:
    """Draw firing rates and R^2 by arm, a row of panels a block, for the first kind of each.

    Args:
        result: complete or partial.

    Returns:
        The figure by file name; none where nothing is measured.
    """
    first = {group.block: group for group in reversed(groups(result))}
    panels = [panel for block in sorted(first) for panel in _panels(first[block])]
    return {"readability.png": curves_figure(panels, columns=2)} if panels else {}


def _panels(group: Group) -> list[Panel]:
    rates = {arm.name: curve for arm in group.arms if (curve := _density(group, arm)) is not None}
    predicted = {arm.name: curve for arm in group.arms if (curve := _above(group, arm)) is not None}
    return [
        Panel(group.name, rates, "log10 of the firing rate", "live features, density"),
        Panel(group.name, predicted, "R² from the token and the two before it", "share of features above"),
    ]


def _values(group: Group, arm: Arm, column: Column) -> list[np.ndarray]:
    found = [column.read(of) for of in group.of(arm).values()]
    return [of[~np.isnan(of)] for of in found if of is not None and not np.isnan(of).all()]


def _density(group: Group, arm: Arm) -> Curve | None:
    """Return a histogram of log10 rates, the mean over seeds."""
    each = [
        np.histogram(of, bins=BINS)[0] / len(of) / (BINS[1] - BINS[0])
        for of in _values(group, arm, BY_NAME["log10 rate"])
    ]
    return _curve((BINS[:-1] + BINS[1:]) / 2, each)


def _above(group: Group, arm: Arm) -> Curve | None:
    """Return the share of features with a larger R^2, the mean over seeds."""
    each = [(of[:, None] > SHARES).mean(0) for of in _values(group, arm, BY_NAME["R², and two before"])]
    return _curve(SHARES, each)


def _curve(x: np.ndarray, each: list[np.ndarray]) -> Curve | None:
    """Return the mean of some seeds' curves, with their range as a band."""
    if not each:
        return None
    band = (np.min(each, axis=0).tolist(), np.max(each, axis=0).tolist()) if len(each) > 1 else (None, None)
    return Curve(x.tolist(), np.mean(each, axis=0).tolist(), *band)
