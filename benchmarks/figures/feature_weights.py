"""What selected features read and write, as heat maps."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from faithfulness_plugin.benchmarks.figures.transcoders import Transcoders, by_name, row_of, support_of
from faithfulness_plugin.jacobian.linear_region import known_region
from faithfulness_plugin.layers.derivatives import Layer, layer_output
from faithfulness_plugin.results.panels import number_ticks, set_title


class WeightsPanel(NamedTuple):
    """Selected features of one transcoder."""

    reads: Float[np.ndarray, "n_features d_in"]
    writes: Float[np.ndarray, "n_features d_out"]
    biases: Float[np.ndarray, " n_features"]
    labels: Sequence[str] | None = None
    """What stands beside the features; None for their biases."""


@torch.no_grad()
def draw_feature_weights(transcoders: Transcoders, layer: Layer, x: Float[Tensor, " d_in"], most: int = 12) -> Figure:
    """Draw what the features that are active at one input read and write.

    Beside each feature stands the part of the layer's output at x that it carries,
    <a_i W_dec^i, f(x)> / ||f(x)||^2; those with most come first.

    Args:
        transcoders: one transcoder, or several by the names to show.
        layer: the function that they replace.
        x: the input, one row.
        most: the largest number of features of each.

    Returns:
        The figure.

    Raises:
        ValueError: x is no single row; a transcoder whose features are not known; none of its features is active at x.
    """
    rows, panels = row_of(x), {}
    y = layer_output(layer, rows)[0]
    for name, transcoder in by_name(transcoders).items():
        region = known_region(transcoder, rows)
        W_enc, W_dec, *_ = region.weights
        features = region.active().features
        acts = region.feature_acts.to_dense().reshape(-1)[features]
        carried = acts * (W_dec[features] @ y.to(W_dec)) / y.square().sum().clamp_min(1e-30)
        first = carried.abs().argsort(descending=True)[:most]
        if not len(first):
            raise ValueError(f"no feature of {name} is active at x: pass another input")
        chosen, labels = features[first], []
        for i, part in zip(chosen.tolist(), carried[first].tolist(), strict=True):
            labels.append(f"{i}: {part:+.2f}")
        reads, writes = (each.float().cpu().numpy() for each in (W_enc.T[chosen], W_dec[chosen]))
        panels[name] = WeightsPanel(reads, writes, np.zeros(len(chosen)), labels)
    return feature_weights(panels, support_of(x))


def feature_weights(panels: Mapping[str, WeightsPanel], n_ones: int | None) -> Figure:
    """Draw encoder weights above and decoder weights below, a feature a row, its bias beside it.

    What a feature reads is scaled to unit norm and its bias likewise, what it writes multiplied by the same: the
    function is the same. The line ends the support of p.

    Args:
        panels: by title.
        n_ones: the size of p's support, its first coordinates; None draws no line.

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
        biases = panel.labels or [f"b {bias:+.2f}" for bias in panel.biases / norms[:, 0]]
        for ax, weights, labels, what in (
            (above, panel.reads / norms, biases, "reads input"),
            (below, panel.writes * norms, [], "writes output"),
        ):
            image = ax.imshow(weights, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
            for i, j in np.argwhere(np.abs(weights) > 0.2):  # signs, for those who see no colours
                ax.text(j, i, "+" if weights[i, j] > 0 else "-", ha="center", va="center", fontsize=7, color="white")
            if n_ones is not None:
                ax.axvline(n_ones - 0.5, color="black", linewidth=1)
            number_ticks(ax.xaxis, (0, (n_ones or 1) - 1, weights.shape[1] - 1))
            ax.set_yticks(range(len(labels)), labels, fontsize=7.5)
            ax.set_xlabel(what, fontsize=9)
        set_title(above, name)
    assert image is not None
    figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, label="weight, what is read at unit norm")
    return figure
