"""A layer with shuffled weights: what is found of |x| there is chance."""

from faithfulness_plugin.benchmarks.figures.memorization_by_condition import memorization_by_condition
from faithfulness_plugin.benchmarks.note.page.section import METRICS, Drawn, Section, over_seeds
from faithfulness_plugin.benchmarks.note.scan.schema import AbsScore, ScanResult, Trained
from faithfulness_plugin.results.markdown import interval_text, markdown_table


def _of_abs(trained: Trained) -> AbsScore:
    assert trained.extras.abs_score is not None  # the preset asks for it
    return trained.extras.abs_score


def section(result: ScanResult) -> Section:
    """Scores against the layer and against |x|."""
    d_in = result.spec.settings(result.spec.points[0]).d_in
    rows = [
        [
            arm,
            interval_text(over_seeds(of, METRICS["circuits recovered"]), 1),
            interval_text(over_seeds(of, METRICS["m / max"]), 3),
            interval_text(over_seeds(of, METRICS["FVU"]), 4),
            interval_text(over_seeds(of, METRICS["Jacobian error"]), 4),
            interval_text(over_seeds(of, lambda t: float(_of_abs(t).recovered)), 1),
            interval_text(over_seeds(of, lambda t: _of_abs(t).fvu), 2),
            interval_text(over_seeds(of, lambda t: _of_abs(t).jacobian_error), 2),
        ]
        for arm in result.spec.arms
        if (of := result.of(arm))
    ]
    most = max(_of_abs(t).recovered for t in result.trained)
    least_error = min(_of_abs(t).jacobian_error for t in result.trained)
    worst = min(result.spec.arms, key=lambda arm: over_seeds(result.of(arm), METRICS["circuits recovered"]).mean)
    chance = most <= 4 and least_error >= 1

    def recovered(arm: str) -> float:
        return over_seeds(result.of(arm), METRICS["circuits recovered"]).mean

    return Section(
        name="shuffled_layer",
        title="Control: a layer with shuffled weights",
        claim="The metrics measure the layer, not the data: a transcoder of a layer with the same weights in another "
        "order scores against |x| as chance does.",
        falsifier="A transcoder of the shuffled layer recovers more than 4 of |x|'s circuits (2 are expected: a "
        "neuron keeps its output by chance once in d_in times), or has a Jacobian error against |x| below 1.",
        verdict=("Holds." if chance else "Does not hold.")
        + (
            f" But of the layer's own circuits {worst} recovers {recovered(worst):.1f}, fewer than no term "
            f"({recovered('no term'):.1f})."
            if recovered(worst) < recovered("no term")
            else ""
        ),
        finding=f"At most {most} of |x|'s {2 * d_in} circuits are recovered, and the Jacobian error against |x| is "
        f"never below {least_error:.2f}. Of the shuffled layer's own circuits are recovered on average: "
        + ", ".join(f"{recovered(arm):.1f} ({arm})" for arm in result.spec.arms)
        + ".",
        table=markdown_table(
            [
                "arm",
                f"own circuits recovered of {2 * d_in}",
                "m / max",
                "FVU",
                "Jacobian error",
                "|x|'s circuits recovered",
                "FVU against |x|",
                "Jacobian error against |x|",
            ],
            rows,
        ),
        caveat="One order of the rows of W_out, the same in all seeds. In this layer the two halves of a coordinate "
        "write to different outputs.",
        figures={
            "shuffled_layer.png": Drawn(
                memorization_by_condition(
                    {arm: [t.metrics.recovered / (2 * d_in) for t in result.of(arm)] for arm in result.spec.arms},
                    "own circuits recovered / all of them (dot: a seed, bar: the mean)",
                    "all of the layer's circuits",
                ),
                "Share of the shuffled layer's own circuits that each arm recovers, every seed a dot",
            )
        },
    )
