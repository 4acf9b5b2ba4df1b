"""Means with their intervals, side by side in named groups."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from faithfulness_plugin.results.panels import STYLES, grid, legend_below, subplots
from faithfulness_plugin.results.schema import Interval


class IntervalPanel(NamedTuple):
    """One set of axes: {group: {arm: its mean and interval}}."""

    title: str
    groups: Mapping[str, Mapping[str, Interval]]


def intervals_figure(panels: Sequence[IntervalPanel], xlabel: str, columns: int = 4) -> Figure:
    """Draw groups from top to bottom, the arms of a group below each other, with a line at 0. An arm has the same style
    in each panel.

    Args:
        panels: from left to right.
        xlabel: what the means are of.
        columns: the largest number of panels in a row.

    Returns:
        The figure.
    """
    arms = list(dict.fromkeys(arm for panel in panels for of in panel.groups.values() for arm in of))
    groups = list(dict.fromkeys(group for panel in panels for group in panel.groups))
    rows, columns = grid(len(panels), columns)
    height = 0.09 * len(groups) * (len(arms) + 1.5) + 0.9
    figure = Figure(figsize=(3.4 * columns + 1.2, height * rows + 0.5), layout="constrained")
    axes = subplots(figure, len(panels), columns, sharey=True, sharex=True)
    handles = {}
    step = 1 / (len(arms) + 1.5)
    for ax, panel in zip(axes, panels, strict=True):
        for g, group in enumerate(groups):
            for arm, of in panel.groups.get(group, {}).items():
                n = arms.index(arm)
                color, _, marker = STYLES[1 + n % (len(STYLES) - 1)]
                y = g + (n - (len(arms) - 1) / 2) * step
                if of.low is not None and of.high is not None:
                    ax.plot([of.low, of.high], [y, y], color=color, linewidth=1.4, zorder=2)
                (handles[arm],) = ax.plot([of.mean], [y], color=color, marker=marker, markersize=5, linestyle="none")
        ax.axvline(0, color="0.3", linewidth=1, zorder=1)
        for g in range(1, len(groups)):
            ax.axhline(g - 0.5, color="0.9", linewidth=0.8, zorder=0)
        ax.set_title(panel.title, fontsize=10)
        ax.set_xlim(-1.05, 1.05)
        ax.set_ylim(len(groups) - 0.5, -0.5)
        ax.set_yticks(range(len(groups)), groups, fontsize=8)
        ax.tick_params(axis="x", labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in figure.axes[-columns:]:
        ax.set_xlabel(xlabel, fontsize=9)
    legend_below(figure, handles, len(arms))
    return figure
