"""What the features are made of."""

import numpy as np

from faithfulness_plugin.benchmarks.figures.circuit_projection import ProjectionPanel, circuit_projection_figure
from faithfulness_plugin.benchmarks.figures.feature_weights import WeightsPanel, feature_weights
from faithfulness_plugin.benchmarks.figures.jacobian_at_point import jacobian_at_point
from faithfulness_plugin.benchmarks.note.page.section import Drawn, Section
from faithfulness_plugin.benchmarks.note.scan.schema import FeatureWeights, ScanResult, Trained
from faithfulness_plugin.results.markdown import markdown_table
from faithfulness_plugin.toy.circuits import abs_circuits

N_SHOWN = 7


def section(result: ScanResult) -> Section:
    """Projections, weights and Jacobians of the first seed; counts over all."""
    settings = result.spec.settings(result.spec.points[0])
    d_in, n_ones = settings.d_in, settings.n_ones
    shown = {t.arm: t for t in result.trained if t.seed == result.spec.first_seed}
    labels = [circuit.label for circuit in abs_circuits(d_in)] + ["datapoint p"]
    rows, tilted, shared = [], {}, {}
    for arm in result.spec.arms:
        of = result.of(arm)
        tilted[arm] = max(_tilt(t, n_ones) for t in of)
        shared[arm] = max(_datapoint(t) for t in of)
        silent = sum(_silenced(t, n_ones) for t in of) / len(of)
        rows.append([arm, f"{shared[arm]:.3f}", f"{tilted[arm]:.3f}", f"{silent:.1f}"])
    J = {arm: np.array(t.extras.jacobian_at_point) for arm, t in shown.items()}
    weights = {arm: _panel(t, n_ones) for arm, t in shown.items()}
    projections = {
        arm: ProjectionPanel(np.array(t.extras.projection.weights), np.array(t.extras.projection.residual))
        for arm, t in shown.items()
        if t.extras.projection is not None
    }
    holds = shared["repetition"] > 0.5 > max(v for arm, v in shared.items() if arm != "repetition")
    return Section(
        name="circuits",
        title="What the features are made of",
        claim="With repetition a feature appears that no circuit of the layer explains, and the features of p's own "
        "coordinates change; with Jacobian matching the features are the layer's.",
        falsifier="A feature that weighs the datapoint circuit above one half without repetition or with matching, "
        "or none with repetition, in any seed.",
        verdict="Holds." if holds else "Does not hold.",
        finding="Of the features that write one of p's coordinates, the largest weight at unit norm that one reads "
        "beside its own is, per arm: "
        + ", ".join(f"{value:.3f} ({arm})" for arm, value in tilted.items())
        + ". Those that read +x and are silent at p have learnt to leave p to the datapoint feature.",
        table=markdown_table(
            [
                "arm",
                "largest weight of the datapoint circuit in a feature",
                "largest other weight read by a feature of p's coordinates",
                "of these features that read +x, silent at p, mean over seeds",
            ],
            rows,
        ),
        caveat=f"{result.spec.seeds} seeds; the figures show seed {result.spec.first_seed}. Projections are joint and "
        "non-negative: a feature that subtracts shows in the residual.",
        figures={
            "circuits.png": Drawn(
                circuit_projection_figure(
                    projections, labels, f"What the features are made of (seed {result.spec.first_seed})"
                ),
                "Features decomposed over the layer's circuits and the datapoint's; only with repetition the "
                "datapoint's has one",
            ),
            "weights.png": Drawn(
                feature_weights(weights, n_ones),
                "Encoder and decoder weights of the features that write p's coordinates",
            ),
            "jacobian_at_point.png": Drawn(
                jacobian_at_point(J, np.diag([1.0] * n_ones + [0.0] * (d_in - n_ones)), n_ones),
                "Jacobians at p: a filled block where p was memorised, a diagonal elsewhere",
            ),
        },
    )


def _weights(trained: Trained) -> FeatureWeights:
    assert trained.extras.weights is not None  # the preset asks for them
    return trained.extras.weights


def _datapoint(trained: Trained) -> float:
    """The largest weight that the datapoint circuit, the last, has in any feature."""
    assert trained.extras.projection is not None
    return max(trained.extras.projection.weights[-1], default=0.0)


def _of_support(trained: Trained, n_ones: int) -> list[int]:
    """Features that write one coordinate of p's support, and nearly nothing else."""
    writes = np.abs(np.array(_weights(trained).W_dec))
    own = writes.max(1) > 0.9 * np.linalg.norm(writes, axis=1)
    return [i for i in range(len(writes)) if own[i] and writes[i].argmax() < n_ones]


def _tilt(trained: Trained, n_ones: int) -> float:
    """The largest weight, at unit norm, that such a feature reads beside its main one."""
    reads = np.abs(np.array(_weights(trained).W_enc))
    reads = reads / np.linalg.norm(reads, axis=1, keepdims=True)
    return max((float(np.sort(reads[i])[-2]) for i in _of_support(trained, n_ones)), default=0.0)


def _silenced(trained: Trained, n_ones: int) -> int:
    """Such features that read +x and do not fire at p."""
    weights = _weights(trained)
    reads, bias = np.array(weights.W_enc), np.array(weights.b_enc)
    at_point = reads[:, :n_ones].sum(1) + bias
    return sum(
        bool(reads[i, np.abs(reads[i]).argmax()] > 0 and at_point[i] <= 1e-3) for i in _of_support(trained, n_ones)
    )


def _panel(trained: Trained, n_ones: int) -> WeightsPanel:
    """The features that write most to p's support."""
    weights = _weights(trained)
    reads, writes, bias = np.array(weights.W_enc), np.array(weights.W_dec), np.array(weights.b_enc)
    strength = np.abs(writes[:, :n_ones]).sum(1) * np.linalg.norm(reads, axis=1)
    strength = np.where(np.abs(writes[:, :n_ones]).sum(1) > 0.5 * np.abs(writes).sum(1), strength, 0.0)
    order = [i for i in np.argsort(-strength)[:N_SHOWN] if strength[i] > 0]
    order = np.array(order, dtype=int)
    order = order[np.lexsort((np.sign(-reads[order].sum(1)), np.abs(reads[order]).argmax(1)))]
    return WeightsPanel(reads[order], writes[order], bias[order])
