"""Jacobians where the layer itself is in superposition."""

from collections.abc import Sequence

import numpy as np

from faithfulness_plugin.benchmarks.note.page.section import ARMS, METRICS, Drawn, Section, band, mean, over_seeds
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult, Spectrum, Trained
from faithfulness_plugin.results.curves import Curve, Panel, curves_figure
from faithfulness_plugin.results.intervals import interval
from faithfulness_plugin.results.markdown import interval_text, markdown_table

PENALTY = 0.05


def _spectrum(trained: Trained) -> Spectrum:
    assert trained.extras.spectrum is not None  # the preset asks for it
    return trained.extras.spectrum


def section(result: ScanResult) -> Section:
    """Spectra at one penalty; full and subspace errors at all."""
    arms = list(result.spec.arms)
    penalties = [float(value or 0) for value in result.spec.grid["sparsity_coefficient"]]
    first = _spectrum(result.trained[0])
    rank = list(range(1, len(first.layer) + 1))
    spectra: dict[str, Curve] = {"the layer": Curve(rank, first.layer)}
    errors: dict[str, Curve] = {}
    for arm in arms:
        of = [_spectrum(t) for t in result.of(arm, sparsity_coefficient=PENALTY)]
        spectra[arm] = band(rank, [interval([s.transcoder[i] for s in of]) for i in range(len(rank))])
        top = [*map(float, first.top), float(len(rank))]
        ranked = [[*s.top_error, s.relative_error] for s in of]
        errors[arm] = band(top, [interval(list(column)) for column in np.array(ranked).T])
    rows = [
        [
            arm,
            f"{penalty:g}",
            interval_text(over_seeds(of, lambda t: _spectrum(t).relative_error), 3),
            *(
                interval_text(over_seeds(of, lambda t, i=i: _spectrum(t).top_error[i]), 3)
                for i in range(len(first.top))
            ),
            interval_text(over_seeds(of, lambda t: _spectrum(t).rank), 2),
            interval_text(over_seeds(of, METRICS["effective L0"]), 2),
            interval_text(over_seeds(of, METRICS["FVU"]), 3),
        ]
        for arm in arms
        for penalty in penalties
        if (of := result.of(arm, sparsity_coefficient=penalty))
    ]
    better = {
        arm: all(
            over_seeds(result.of(arm, sparsity_coefficient=p), lambda t: _spectrum(t).top_error[1]).mean
            < over_seeds(result.of(arm, sparsity_coefficient=p), lambda t: _spectrum(t).relative_error).mean
            for p in penalties
        )
        for arm in arms
    }
    by_l0 = {arm: _by_l0(result, arm, penalties) for arm in arms}
    plain = [_spectrum(t) for t in result.of(arms[0], sparsity_coefficient=PENALTY)]
    return Section(
        name="superposition",
        title="A layer in superposition",
        claim="Where the layer computes more than it has neurons for, a transcoder matches the first singular "
        "directions of its Jacobian better than the tail.",
        falsifier=f"In some arm and at some penalty the error within the top {first.top[1]} directions is not below "
        "the full one.",
        verdict="Holds."
        if all(better.values())
        else f"Fails at some penalty for: {'; '.join(a for a, ok in better.items() if not ok)}.",
        finding=f"The layer: {result.spec.settings(result.spec.points[0]).n_neurons} ReLU neurons, trained to compute "
        f"|x| of {result.spec.settings(result.spec.points[0]).d_in} sparse coordinates, which takes twice that many "
        f"without superposition. Mean singular values of its Jacobian fall from {first.layer[0]:.2f} to "
        f"{first.layer[-1]:.3f}. At penalty {PENALTY:g} without a Jacobian term the full error is "
        f"{np.mean([s.relative_error for s in plain]):.2f}, within the first two directions "
        f"{np.mean([s.top_error[1] for s in plain]):.2f}; the mean rank of the transcoder's Jacobian is "
        f"{np.mean([s.rank for s in plain]):.1f}.",
        table=markdown_table(
            [
                "arm",
                "penalty",
                "full error",
                *(f"top {k}" for k in first.top),
                "rank of J_t",
                "effective L0",
                "FVU",
            ],
            rows,
        ),
        caveat="One trained layer. At the same penalty the arms differ in L0: compare them in the third panel. "
        "Errors within top k: both sides projected on the layer's own first k singular vectors at each row, relative "
        "to the layer's energy there. All columns count, kinks included.",
        figures={
            "superposition.png": Drawn(
                curves_figure(
                    [
                        Panel(
                            f"mean spectra at penalty {PENALTY:g}",
                            spectra,
                            "singular value",
                            "mean over rows",
                            yscale="log",
                        ),
                        Panel(
                            f"error within the top k, penalty {PENALTY:g}",
                            errors,
                            "k (last: all)",
                            "relative error",
                            xscale="log",
                            yscale="log",
                        ),
                        Panel("error within the top 2, all penalties", by_l0, "effective L0", "relative error"),
                    ],
                    columns=3,
                    order=ARMS,
                ),
                "Spectra of the layer's and the transcoders' Jacobians, and the error within the top k directions",
            )
        },
    )


def _by_l0(result: ScanResult, arm: str, penalties: Sequence[float]) -> Curve:
    """The error within the top 2 against effective L0, along the penalty."""
    of = [result.of(arm, sparsity_coefficient=penalty) for penalty in penalties]
    return Curve(
        [mean(trained, METRICS["effective L0"]) for trained in of],
        [mean(trained, lambda t: _spectrum(t).top_error[1]) for trained in of],
    )
