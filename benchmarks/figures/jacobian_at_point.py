"""The Jacobian at the point, per arm, side by side on one colour scale."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from faithfulness_plugin.benchmarks.figures.transcoders import Transcoders, by_name, row_of, support_of
from faithfulness_plugin.jacobian.exact import layer_jacobian, transcoder_jacobian
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.results.panels import grid, number_ticks, set_title, subplots


@torch.no_grad()
def draw_jacobians(transcoders: Transcoders, layer: Layer, x: Float[Tensor, " d_in"]) -> Figure:
    """Draw the Jacobian of a layer at one input, and those of its transcoders beside it.

    Args:
        transcoders: one transcoder, or several by the names to show.
        layer: the function that they replace.
        x: the input, one row.

    Returns:
        The figure. Where the first coordinates of x alone are not 0, a frame marks them.

    Raises:
        ValueError: x is no single row.
    """
    rows = row_of(x)
    found = {name: transcoder_jacobian(t, rows)[0].float().cpu().numpy() for name, t in by_name(transcoders).items()}
    return jacobian_at_point(
        found, layer_jacobian(layer, rows)[0].float().cpu().numpy(), support_of(x), "Jacobians at x"
    )


def jacobian_at_point(
    jacobians: Mapping[str, Float[np.ndarray, "d_out d_in"]],
    layer: Float[np.ndarray, "d_out d_in"],
    n_ones: int | None,
    caption: str = "Jacobians at p",
) -> Figure:
    """Draw one panel for the layer and one per arm.

    Rows are outputs, columns inputs; the frame marks the support of p, the block that a datapoint feature fills. Signed
    colours, 0 is white.

    Args:
        jacobians: J_t at p, by title.
        layer: J_f at p.
        n_ones: the size of p's support, its first coordinates; None draws no frame.
        caption: above all panels.

    Returns:
        The figure.
    """
    panels = {"the layer": layer, **jacobians}
    limit = max(float(np.abs(J).max()) for J in panels.values()) or 1.0
    rows, columns = grid(len(panels), {5: 5, 6: 3}.get(len(panels), 4))
    figure = Figure(figsize=(2.9 * columns + 0.9, 3.15 * rows + 0.5), layout="constrained")
    image = None
    for ax, (name, J) in zip(subplots(figure, len(panels), columns), panels.items(), strict=True):
        image = ax.imshow(J, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        if n_ones is not None:
            ax.add_patch(Rectangle((-0.5, -0.5), n_ones, n_ones, fill=False, edgecolor="black", linewidth=1.2))
        set_title(ax, name)
        for axis, label, width in ((ax.xaxis, "input", J.shape[1]), (ax.yaxis, "output", J.shape[0])):
            number_ticks(axis, (0, (n_ones or 1) - 1, width - 1))
            axis.set_label_text(label, fontsize=8)
    assert image is not None
    figure.colorbar(image, ax=figure.axes, shrink=0.7, aspect=30, pad=0.015, label="d output / d input, at p")
    figure.suptitle(caption, fontsize=12)
    return figure
