"""Published values beside where one more run of ours would fall."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

BLUE, ORANGE = "#0072B2", "#D55E00"


class Beside(NamedTuple):
    """One row: our runs, their prediction interval, and the published value, if there is one."""

    values: Sequence[float]
    low: float
    high: float
    published: float | None


def published_beside_ours(panels: Mapping[str, Mapping[str, Beside]]) -> Figure:
    """{quantity: {column: row}}. A dot is a run of ours, the bar the 95 % prediction interval, a cross the published
    value."""
    first = next(iter(panels.values()))
    figure = Figure(figsize=(3.6 * len(panels) + 1.6, 0.5 * len(first) + 1.5), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for ax, (quantity, rows) in zip(axes, panels.items(), strict=True):
        for y, row in enumerate(rows.values()):
            ax.plot([row.low, row.high], [y, y], color=BLUE, linewidth=5, alpha=0.3, solid_capstyle="butt")
            ax.scatter(row.values, [y] * len(row.values), s=14, color=BLUE, linewidth=0, alpha=0.8)
            if row.published is not None:
                ax.scatter([row.published], [y], marker="x", s=60, color=ORANGE, linewidth=2, zorder=4)
        ax.set_xlabel(quantity, fontsize=9)
        ax.tick_params(labelsize=8)
        ax.grid(axis="x", color="0.92")
        ax.spines[["top", "right"]].set_visible(False)
    for label, marker, color in (("a run of ours", "o", BLUE), ("published", "x", ORANGE)):
        axes[0].plot([], [], marker=marker, color=color, linestyle="", label=label)
    axes[0].plot([], [], color=BLUE, linewidth=5, alpha=0.3, label="95 % prediction interval of ours")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    axes[0].set_yticks(range(len(first)), list(first), fontsize=9)
    axes[0].set_ylim(len(first) - 0.5, -0.5)
    return figure
