"""The Jacobian at the point, per condition, side by side on one colour scale."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from faithfulness_plugin.benchmarks.figures.panels import set_title


def jacobian_at_point(
    jacobians: Mapping[str, Float[np.ndarray, "d_out d_in"]],
    layer: Float[np.ndarray, "d_out d_in"],
    n_ones: int,
    caption: str = "Jacobians at p",
) -> Figure:
    """One panel for the layer and one per condition {title: J_t}. Rows are outputs, columns inputs; the
    frame marks the support of p, the block that a datapoint feature fills. Signed colours, 0 is white."""
    panels = {"the layer": layer, **jacobians}
    limit = max(float(np.abs(J).max()) for J in panels.values()) or 1.0
    columns = {5: 5, 6: 3}.get(len(panels), min(4, len(panels)))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2.9 * columns + 0.9, 3.15 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    image = None
    for ax, (name, J) in zip(axes.flat, panels.items(), strict=False):
        image = ax.imshow(J, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        ax.add_patch(_frame(n_ones))
        set_title(ax, name)
        ticks = sorted({0, n_ones - 1, len(J) - 1})
        ax.set_xticks(ticks, [str(t + 1) for t in ticks], fontsize=8)
        ax.set_yticks(ticks, [str(t + 1) for t in ticks], fontsize=8)
        ax.set_xlabel("input", fontsize=8)
        ax.set_ylabel("output", fontsize=8)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    assert image is not None
    figure.colorbar(image, ax=axes, shrink=0.7, aspect=30, pad=0.015, label="d output / d input, at p")
    figure.suptitle(caption, fontsize=12)
    return figure


def _frame(n_ones: int) -> Rectangle:
    return Rectangle((-0.5, -0.5), n_ones, n_ones, fill=False, edgecolor="black", linewidth=1.2)
