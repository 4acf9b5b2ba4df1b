"""What each feature is made of, per arm: circuits as rows, features as columns sorted to the diagonal."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from faithfulness_plugin.results.panels import ORANGE, grid, set_title, subplots


class ProjectionPanel(NamedTuple):
    """The live features of one transcoder."""

    weights: Float[np.ndarray, "n_circuits n_live"]
    residual: Float[np.ndarray, " n_live"]


def circuit_projection_figure(panels: Mapping[str, ProjectionPanel], circuits: Sequence[str], caption: str) -> Figure:
    """Draw what features are made of. The last circuit is the datapoint's, framed; below it, apart, the residual.

    Args:
        panels: by title.
        circuits: labels of the rows.
        caption: above all panels.

    Returns:
        The figure.
    """
    rows, columns = grid(len(panels), 2 if len(panels) == 4 else 3)
    n, height = len(circuits), 0.155 * (len(circuits) + 2)
    figure = Figure(figsize=(5.0 * columns + 0.8, (height + 0.9) * rows), layout="constrained")
    image = None
    for ax, (name, panel) in zip(subplots(figure, len(panels), columns), panels.items(), strict=True):
        order = diagonal_order(panel.weights)
        gap = np.full((1, len(order)), np.nan)
        table = np.vstack([panel.weights[:, order], gap, panel.residual[None, order]])
        image = ax.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        ax.add_patch(Rectangle((-0.5, n - 1.5), len(order), 1, fill=False, edgecolor=ORANGE, linewidth=1.4))
        ax.set_yticks([*range(n), n + 1], [*circuits, "residual"], fontsize=6)
        ax.set_xticks([])
        ax.set_xlabel(f"{len(order)} live features", fontsize=9)
        set_title(ax, name)
    assert image is not None
    label = "weight in the feature (unit norm), or residual norm"
    figure.colorbar(image, ax=figure.axes, shrink=0.4, aspect=35, pad=0.01, label=label)
    figure.suptitle(caption, fontsize=12)
    return figure


def diagonal_order(weights: Float[np.ndarray, "n_circuits n_live"]) -> Int[np.ndarray, " n_live"]:
    """Order the columns by the circuit that weighs most in them, the heavier first.

    Args:
        weights: one column a feature.

    Returns:
        Indices of the columns.
    """
    return np.lexsort((-weights.max(axis=0, initial=0.0), weights.argmax(axis=0)))
