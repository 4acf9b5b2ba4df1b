"""Published values beside where one more run of ours would fall."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from faithfulness_plugin.results.panels import BLUE, ORANGE, style_axes, subplots


class Beside(NamedTuple):
    """One row: our runs, their prediction interval, and the published value, if there is one."""

    values: Sequence[float]
    low: float
    high: float
    published: float | None


def published_beside_ours(panels: Mapping[str, Mapping[str, Beside]]) -> Figure:
    """Draw each of our runs as a dot, the 95 % prediction interval as a bar, and the published value as a cross.

    Args:
        panels: rows by arm, by quantity.

    Returns:
        The figure.
    """
    names = list(next(iter(panels.values())))
    figure = Figure(figsize=(3.6 * len(panels) + 1.6, 0.5 * len(names) + 1.5), layout="constrained")
    axes = subplots(figure, len(panels), len(panels), sharey=True)
    for ax, (quantity, rows) in zip(axes, panels.items(), strict=True):
        for y, row in enumerate(rows.values()):
            ax.plot([row.low, row.high], [y, y], color=BLUE, linewidth=5, alpha=0.3, solid_capstyle="butt")
            ax.scatter(row.values, [y] * len(row.values), s=14, color=BLUE, linewidth=0, alpha=0.8)
            if row.published is not None:
                ax.scatter([row.published], [y], marker="x", s=60, color=ORANGE, linewidth=2, zorder=4)
        style_axes(ax, xlabel=quantity, lines="x")
    axes[0].plot([], [], marker="o", color=BLUE, linestyle="", label="a run of ours")
    axes[0].plot([], [], marker="x", color=ORANGE, linestyle="", label="published")
    axes[0].plot([], [], color=BLUE, linewidth=5, alpha=0.3, label="95 % prediction interval of ours")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    axes[0].set_yticks(range(len(names)), names, fontsize=9)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    return figure
