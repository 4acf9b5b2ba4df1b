"""What selected features read and write, as heat maps."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from faithfulness_plugin.results.panels import number_ticks, set_title


class WeightsPanel(NamedTuple):
    """Selected features of one transcoder."""

    reads: Float[np.ndarray, "n_features d_in"]
    writes: Float[np.ndarray, "n_features d_out"]
    biases: Float[np.ndarray, " n_features"]


def feature_weights(panels: Mapping[str, WeightsPanel], n_ones: int) -> Figure:
    """Draw encoder weights above and decoder weights below, a feature a row, its bias beside it.

    What a feature reads is scaled to unit norm and its bias likewise, what it writes multiplied by the same: the
    function is the same. The line ends the support of p.

    Args:
        panels: by title.
        n_ones: the size of p's support.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(3.5 * len(panels) + 0.9, 5.6), layout="constrained")
    axes = figure.subplots(2, len(panels), squeeze=False)
    limit = max(float(np.abs(p.writes * np.linalg.norm(p.reads, axis=1, keepdims=True)).max()) for p in panels.values())
    image = None
    for (above, below), (name, panel) in zip(axes.T, panels.items(), strict=True):
        norms = np.linalg.norm(panel.reads, axis=1, keepdims=True)
        norms = np.where(norms > 0, norms, 1.0)
        biases = [f"b {bias:+.2f}" for bias in panel.biases / norms[:, 0]]
        for ax, weights, labels, what in (
            (above, panel.reads / norms, biases, "reads input"),
            (below, panel.writes * norms, [], "writes output"),
        ):
            image = ax.imshow(weights, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
            for i, j in np.argwhere(np.abs(weights) > 0.2):  # signs, for those who see no colours
                ax.text(j, i, "+" if weights[i, j] > 0 else "-", ha="center", va="center", fontsize=7, color="white")
            ax.axvline(n_ones - 0.5, color="black", linewidth=1)
            number_ticks(ax.xaxis, (0, n_ones - 1, weights.shape[1] - 1))
            ax.set_yticks(range(len(labels)), labels, fontsize=7.5)
            ax.set_xlabel(what, fontsize=9)
        set_title(above, name)
    assert image is not None
    figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, label="weight, what is read at unit norm")
    return figure
