"""Memorization over two settings, with the contour at one half."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from faithfulness_plugin.results.panels import ORANGE


def emergence_map(
    m: Float[np.ndarray, "n_rows n_columns"],
    columns: Sequence[float],
    rows: Sequence[float],
    xlabel: str,
    ylabel: str,
    product: float | None = None,
) -> Figure:
    """Draw m / maximum as shades, columns and rows at equal distances with their values as ticks.

    Solid line: where m / max is one half, interpolated over the logarithms. Dashed: where column * row is `product`.

    Args:
        m: shares of the maximum.
        columns: values of the setting along x.
        rows: values of the setting along y.
        xlabel: the setting along x.
        ylabel: the setting along y.
        product: None draws no dashed line.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(6.6, 4.6), layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(m, origin="lower", cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for i, row in enumerate(m):
        for j, value in enumerate(row):
            ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color="white" if value > 0.5 else "0.3")
    x, y = np.arange(len(columns)), np.arange(len(rows))
    if m.min() < 0.5 < m.max():
        ax.contour(x, y, m, levels=[0.5], colors=ORANGE, linewidths=2)
        ax.plot([], [], color=ORANGE, linewidth=2, label="m / max = 1/2")
    if product is not None:
        log_columns, fine = np.log(columns), np.linspace(0, len(columns) - 1, 200)
        at = np.log(product) - np.interp(fine, x, log_columns)
        line = np.interp(at, np.log(rows), y, left=np.nan, right=np.nan)
        ax.plot(fine, line, color="black", linestyle="--", linewidth=1.5, label=f"product {product:.2g}")
    ax.set_xticks(x, [f"{value:g}" for value in columns])
    ax.set_yticks(y, [f"{value:g}" for value in rows])
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    if ax.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper left", ncols=2, fontsize=9, frameon=False)
    figure.colorbar(image, ax=ax, label="m / max, mean over seeds")
    return figure
