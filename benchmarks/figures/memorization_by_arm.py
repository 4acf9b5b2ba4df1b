"""Memorization by arm, every seed a dot."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from faithfulness_plugin.results.panels import BLUE


def memorization_by_arm(
    fractions: Mapping[str, Sequence[float]],
    xlabel: str = "memorization at p / its maximum (dot: a seed, bar: the mean)",
    maximum: str = "one datapoint feature",
) -> Figure:
    """Draw shares of a maximum, one row an arm, every seed a dot and the mean a bar.

    Args:
        fractions: m / maximum of each seed, or another share, by arm.
        xlabel: what the share is.
        maximum: what stands at the dashed line, 1: of m, one feature that writes the whole output at p.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(7.4, 0.62 * len(fractions) + 1.5), layout="constrained")
    ax = figure.subplots()
    for row, values in enumerate(fractions.values()):
        spread = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else [0.0]
        ax.scatter(values, row + np.asarray(spread), s=30, color=BLUE, alpha=0.85, linewidth=0, zorder=3)
        mean = float(np.mean(values))
        ax.plot([mean, mean], [row - 0.36, row + 0.36], color="black", linewidth=1.2, zorder=2)
    ax.axvline(1.0, color="0.35", linestyle="--", linewidth=1, zorder=1)
    ax.text(1.0, -0.56, maximum, ha="right", va="bottom", color="0.35", fontsize=9)
    ax.set_yticks(range(len(fractions)), list(fractions))
    ax.set_ylim(len(fractions) - 0.5, -0.5)
    ax.set_xlim(-0.04, max(1.08, 1.05 * max(max(values) for values in fractions.values())))
    ax.set_xlabel(xlabel)
    ax.grid(axis="x", color="0.9", zorder=0)
    ax.spines[["top", "right"]].set_visible(False)
    return figure
