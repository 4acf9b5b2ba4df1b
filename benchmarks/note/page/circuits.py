"""What the features are made of."""

from typing import Any

import numpy as np

from faithfulness_plugin.benchmarks.figures.circuit_projection import ProjectionPanel, circuit_projection_figure
from faithfulness_plugin.benchmarks.figures.feature_weights import WeightsPanel, feature_weights
from faithfulness_plugin.benchmarks.figures.jacobian_at_point import jacobian_at_point
from faithfulness_plugin.benchmarks.note.page.section import Section, mean
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult, Trained
from faithfulness_plugin.results.markdown import markdown_table
from faithfulness_plugin.toy.circuits import abs_circuits

N_SHOWN = 7
LARGE = 0.5
"""A weight of the datapoint circuit in a feature that counts as memorizing."""


def section(result: ScanResult) -> Section:
    """Show what the features are made of.

    Args:
        result: the result of the preset "circuits".

    Returns:
        Projections, weights and Jacobians of the first seed, and counts over all seeds.
    """
    spec = result.spec
    d_in, n_ones = (getattr(spec.settings(spec.points[0]), name) for name in ("d_in", "n_ones"))
    datapoint = {arm: [_datapoint(t) for t in result.of(arm)] for arm in spec.arms}
    tilted = {arm: max(_tilt(t, n_ones) for t in result.of(arm)) for arm in spec.arms}
    silent = {arm: mean(result.of(arm), lambda t: _silenced(t, n_ones)) for arm in spec.arms}
    header = [
        "arm",
        "largest weight of the datapoint circuit in a feature",
        "largest other weight read by a feature of p's coordinates",
        "of these features that read +x, silent at p, mean over seeds",
    ]
    rows = [[arm, f"{max(datapoint[arm]):.3f}", f"{tilted[arm]:.3f}", f"{silent[arm]:.1f}"] for arm in spec.arms]
    shown: dict[str, Any] = {t.arm: t.extras for t in result.trained if t.seed == spec.first_seed}
    projections = {
        arm: ProjectionPanel(np.array(extras.projection.weights), np.array(extras.projection.residual))
        for arm, extras in shown.items()
    }
    labels = [circuit.label for circuit in abs_circuits(d_in)] + ["datapoint p"]
    caption = f"What the features are made of (seed {spec.first_seed})"
    layer = np.diag([1.0] * n_ones + [0.0] * (d_in - n_ones))
    return Section(
        "circuits",
        {
            "holds": min(datapoint["repetition"]) > LARGE
            and all(max(weights) < LARGE for arm, weights in datapoint.items() if arm != "repetition"),
            "tilted": tilted,
            "silent": silent["repetition"],
            "seeds": spec.seeds,
            "first_seed": spec.first_seed,
        },
        markdown_table(header, rows),
        {
            "circuits.png": circuit_projection_figure(projections, labels, caption),
            "weights.png": feature_weights({arm: _panel(extras, n_ones) for arm, extras in shown.items()}, n_ones),
            "jacobian_at_point.png": jacobian_at_point(
                {arm: np.array(extras.jacobian_at_point) for arm, extras in shown.items()}, layer, n_ones
            ),
        },
    )


def _datapoint(trained: Trained) -> float:
    """Return the largest weight that the datapoint circuit, the last, has in any feature."""
    extras: Any = trained.extras
    return max(extras.projection.weights[-1], default=0.0)


def _arrays(extras: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what the features that matter read [feature, d_in], their biases, and what they write."""
    weights = extras.weights
    return np.array(weights.W_enc), np.array(weights.b_enc), np.array(weights.W_dec)


def _of_support(writes: np.ndarray, n_ones: int) -> list[int]:
    """Find the features that write one coordinate of p's support, and nearly nothing else."""
    size = np.abs(writes)
    own = size.max(1) > 0.9 * np.linalg.norm(writes, axis=1)
    return [i for i in range(len(writes)) if own[i] and size[i].argmax() < n_ones]


def _tilt(trained: Trained, n_ones: int) -> float:
    """Return the largest weight, at unit norm, that such a feature reads beside its main one."""
    reads, _, writes = _arrays(trained.extras)
    size = np.abs(reads) / np.linalg.norm(reads, axis=1, keepdims=True)
    return max((float(np.sort(size[i])[-2]) for i in _of_support(writes, n_ones)), default=0.0)


def _silenced(trained: Trained, n_ones: int) -> int:
    """Count such features that read +x and do not fire at p."""
    reads, bias, writes = _arrays(trained.extras)
    at_point = reads[:, :n_ones].sum(1) + bias
    return sum(
        bool(reads[i, np.abs(reads[i]).argmax()] > 0 and at_point[i] <= 1e-3) for i in _of_support(writes, n_ones)
    )


def _panel(extras: Any, n_ones: int) -> WeightsPanel:
    """Return the features that write most to p's support."""
    reads, bias, writes = _arrays(extras)
    on_support = np.abs(writes[:, :n_ones]).sum(1)
    strength = on_support * np.linalg.norm(reads, axis=1)
    strength = np.where(on_support > 0.5 * np.abs(writes).sum(1), strength, 0.0)
    order = np.array([i for i in np.argsort(-strength)[:N_SHOWN] if strength[i] > 0], dtype=int)
    order = order[np.lexsort((np.sign(-reads[order].sum(1)), np.abs(reads[order]).argmax(1)))]
    return WeightsPanel(reads[order], writes[order], bias[order])
