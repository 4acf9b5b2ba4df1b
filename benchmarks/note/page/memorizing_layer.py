"""A layer that memorises: the feature must survive."""

from faithfulness_plugin.benchmarks.note.page.section import (
    ARMS,
    METRICS,
    Drawn,
    Section,
    curve_over,
    joined,
    over_seeds,
)
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult, Trained
from faithfulness_plugin.metrics.feature_recovery import RECOVERED_COSINE
from faithfulness_plugin.results.curves import Panel, curves_figure
from faithfulness_plugin.results.markdown import interval_text, markdown_table

OWN = 0.5
"""m / max of the layer itself: half of f(p) = 2 p is written by its datapoint neuron, half by |x|'s."""


def _cosine(trained: Trained) -> float:
    assert trained.extras.point_circuit is not None  # the preset asks for it
    return trained.extras.point_circuit


def section(result: ScanResult) -> Section:
    """Recovery of the datapoint circuit and of the others."""
    arms = list(result.spec.arms)
    n_circuits = 2 * result.spec.settings(result.spec.points[0]).d_in + 1
    rows, kept, whole = [], {}, {}
    for arm in arms:
        for penalty in result.spec.grid["sparsity_coefficient"]:
            of = result.of(arm, sparsity_coefficient=penalty)
            kept[arm, penalty] = sum(_cosine(t) >= RECOVERED_COSINE for t in of)
            whole[arm, penalty] = sum(t.metrics.recovered == n_circuits for t in of)
            rows.append(
                [
                    arm,
                    f"{penalty:g}",
                    f"{kept[arm, penalty]} of {len(of)}",
                    f"{whole[arm, penalty]} of {len(of)}",
                    interval_text(over_seeds(of, METRICS["m / max"]), 3),
                    interval_text(over_seeds(of, lambda t: t.metrics.off_diagonal_norm), 2),
                    interval_text(over_seeds(of, METRICS["FVU"]), 4),
                    interval_text(over_seeds(of, METRICS["Jacobian error"]), 4),
                    interval_text(over_seeds(of, METRICS["effective L0"]), 3),
                ]
            )
    seeds = result.spec.seeds
    matched = [arm for arm in arms if "Jacobian" in arm or "secant" in arm]
    broken = [f"{arm} at {p:g} ({n} of {seeds})" for (arm, p), n in whole.items() if arm in matched and n < seeds]
    kept_by = [arm for arm in matched if not any(text.startswith(f"{arm} at ") for text in broken)]
    complete = [f"{arm} at {p:g}" for (arm, p), n in whole.items() if n == seeds]
    return Section(
        name="memorizing_layer",
        title="Control: a layer that really memorises p",
        claim="Matching does not remove datapoint features as such: where the layer has one, it and all others are "
        "kept.",
        falsifier=f"A matched arm, at a penalty, with a seed that does not recover all {n_circuits} circuits.",
        verdict="Holds."
        if not broken
        else f"Holds for {joined(kept_by)} alone; not for {'; '.join(broken)}."
        if kept_by
        else f"Does not hold: {'; '.join(broken)}.",
        finding=f"The layer is |x| and one more neuron, which is 1 at p and writes p; its own m / max is {OWN:g}, and "
        f"the off-diagonal norm of its Jacobian at p is 4.90. Every seed recovers all {n_circuits} circuits, |x|'s "
        "and the datapoint's, with "
        + (", ".join(complete) if complete else "no arm")
        + ". An m / max above the layer's own says that the feature also writes at p what |x|'s features should.",
        table=markdown_table(
            [
                "arm",
                "penalty",
                "datapoint feature kept",
                f"all {n_circuits} circuits",
                "m / max (layer: 0.5)",
                "off-diagonal norm at p (4.90)",
                "FVU",
                "Jacobian error",
                "effective L0",
            ],
            rows,
        ),
        caveat="Kept: a feature whose contribution has a cosine of at least 0.9 with the datapoint circuit, on rows "
        "that hold p. Without a term the feature is there as well: by itself its presence proves nothing, all "
        "circuits together do.",
        figures={
            "memorizing_layer.png": Drawn(
                curves_figure(
                    [
                        Panel(
                            title,
                            {arm: curve_over(result, arm, "sparsity_coefficient", read) for arm in arms},
                            "sparsity coefficient",
                            title,
                        )
                        for title, read in (
                            ("m / max (layer: 0.5)", METRICS["m / max"]),
                            (f"circuits recovered of {n_circuits}", METRICS["circuits recovered"]),
                        )
                    ],
                    columns=2,
                    order=ARMS,
                ),
                "m and recovered circuits over the penalty where the layer itself memorises",
            )
        },
    )
