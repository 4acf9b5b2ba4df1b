"""What selected features read and write, as heat maps."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from faithfulness_plugin.benchmarks.figures.panels import set_title


class WeightsPanel(NamedTuple):
    """Selected features of one transcoder."""

    reads: Float[np.ndarray, "n_features d_in"]
    writes: Float[np.ndarray, "n_features d_out"]
    biases: Float[np.ndarray, " n_features"]


def feature_weights(panels: Mapping[str, WeightsPanel], n_ones: int) -> Figure:
    """{title: panel}: encoder above, decoder below, a feature a row, its bias beside it. What a feature reads is scaled
    to unit norm and its bias likewise, what it writes multiplied by the same: the function is the same. The line ends
    the support of p."""
    figure = Figure(figsize=(3.5 * len(panels) + 0.9, 5.6), layout="constrained")
    axes = figure.subplots(2, len(panels), squeeze=False)
    limit = max(float(np.abs(p.writes * np.linalg.norm(p.reads, axis=1, keepdims=True)).max()) for p in panels.values())
    image = None
    for column, (name, panel) in enumerate(panels.items()):
        norms = np.linalg.norm(panel.reads, axis=1, keepdims=True)
        norms = np.where(norms > 0, norms, 1.0)
        for ax, weights, what in zip(
            axes[:, column], (panel.reads / norms, panel.writes * norms), ("reads input", "writes output"), strict=True
        ):
            image = ax.imshow(weights, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
            for i, j in np.argwhere(np.abs(weights) > 0.2):  # signs, for those who see no colours
                ax.text(j, i, "+" if weights[i, j] > 0 else "-", ha="center", va="center", fontsize=7, color="white")
            ax.axvline(n_ones - 0.5, color="black", linewidth=1)
            ticks = sorted({0, n_ones - 1, weights.shape[1] - 1})
            ax.set_xticks(ticks, [str(t + 1) for t in ticks], fontsize=8)
            labels = [f"b {bias:+.2f}" for bias in panel.biases / norms[:, 0]] if what.startswith("reads") else []
            ax.set_yticks(range(len(labels)), labels, fontsize=7.5)
            ax.set_xlabel(what, fontsize=9)
        set_title(axes[0, column], name)
    assert image is not None
    figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, label="weight, what is read at unit norm")
    return figure
