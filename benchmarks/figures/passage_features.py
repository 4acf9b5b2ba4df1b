"""Which features write the output at a passage, and whether they fire anywhere else."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from faithfulness_plugin.results.panels import BLUE, ORANGE, grid, style_axes, subplots

NOWHERE = 1e-4
"""Where features are drawn that fire nowhere else."""


class PassageFeatures(NamedTuple):
    """What the features of one transcoder do at the passage."""

    rate_elsewhere: Sequence[float]
    carried: Sequence[float]
    share: float


def passage_features(panels: Mapping[str, PassageFeatures], rare: float) -> Figure:
    """Draw a dot a feature: its firing rate on other text, and the part of the passage's output that it carries. Left
    of the line it is the passage's own.

    Args:
        panels: by title.
        rare: the rate at the line.

    Returns:
        The figure.
    """
    rows, columns = grid(len(panels), 4)
    figure = Figure(figsize=(3.1 * columns + 0.3, 2.9 * rows + 0.3), layout="constrained")
    axes = subplots(figure, len(panels), columns, sharex=True, sharey=True)
    for ax, (title, of) in zip(axes, panels.items(), strict=True):
        x = [max(rate, NOWHERE) for rate in of.rate_elsewhere]
        colors = [ORANGE if rate <= rare else BLUE for rate in of.rate_elsewhere]
        ax.scatter(x, of.carried, c=colors, s=14, linewidths=0, zorder=3)
        ax.axvline(rare, color="0.45", linewidth=1, linestyle=(0, (2, 2)))
        ax.set_xscale("log")
        ax.set_xlim(NOWHERE / 1.6, 1.3)
        style_axes(ax)
        ax.set_title(f"{title}\nown features carry {of.share:.2f}", fontsize=9)
    figure.supxlabel("share of other tokens where the feature fires (left edge: none)", fontsize=9)
    figure.supylabel("carried of the passage's output", fontsize=9)
    return figure
