"""The outputs one step away from p."""

import numpy as np

from faithfulness_plugin.benchmarks.markdown import interval_text, markdown_table
from faithfulness_plugin.benchmarks.results_page.section import ARMS, Drawn, Section, band, over_seeds
from faithfulness_plugin.benchmarks.scan.schema import NearPointCurves, ScanResult, Trained
from faithfulness_plugin.benchmarks.statistics import interval
from faithfulness_plugin.figures.curves import Curve, Panel, curves_figure


def _curves(trained: Trained) -> NearPointCurves:
    assert trained.extras.near_point is not None  # the preset asks for them
    return trained.extras.near_point


def section(result: ScanResult) -> Section:
    """Both curves with bands."""
    arms = list(result.spec.arms)
    first = _curves(result.trained[0])

    def over(arm: str, x: list[float], name: str) -> Curve:
        values = np.array([getattr(_curves(t), name) for t in result.of(arm)])
        return band(x, [interval(list(column)) for column in values.T])

    rows = []
    for arm in arms:
        of = result.of(arm)
        rows.append(
            [
                arm,
                *(interval_text(over_seeds(of, lambda t, i=i: _curves(t).error[i]), 4) for i in (1, 5, -1)),
                *(interval_text(over_seeds(of, lambda t, i=i: _curves(t).error_one_changed[i]), 4) for i in (0, 5, -1)),
            ]
        )

    def at_zero(arm: str) -> float:
        return over_seeds(result.of(arm), lambda t: _curves(t).error_one_changed[-1]).mean

    reference, memorised = at_zero("baseline"), at_zero("repetition")
    others = {arm: at_zero(arm) for arm in arms if arm not in ("baseline", "repetition")}
    at_p = {arm: over_seeds(result.of(arm), lambda t: _curves(t).error_one_changed[0]).mean for arm in arms}
    holds = memorised > 2 * reference and max(others["Jacobian"], others["secant"]) < memorised / 2
    return Section(
        name="near_point",
        title="One step away from p",
        claim="A transcoder that memorises p is right at p and wrong beside it; a matched one is not.",
        falsifier="With one coordinate of p set to 0, the memorising transcoder's error is not twice the baseline's, "
        "or a matched one's is more than half of it.",
        verdict="Holds." if holds else "Does not hold.",
        finding="With one of p's ones set to 0 the memorising transcoder's relative squared error is "
        f"{memorised:.3f}, the baseline's {reference:.3f}, and "
        + ", ".join(f"{value:.4f} ({arm})" for arm, value in others.items())
        + f". At p itself its error is {at_p['repetition']:.4f} beside {at_p['baseline']:.4f}: no loss at p shows it.",
        table=markdown_table(
            [
                "arm",
                *(f"eps {first.distances[i]:g}" for i in (1, 5, -1)),
                *(f"a one set to {first.values[i]:g}" for i in (0, 5, -1)),
            ],
            rows,
        ),
        caveat="||t - f||^2 / ||f||^2. Directions u are uniform on the unit sphere in all coordinates, so that p + "
        "eps u also leaves the data's sparsity; the coordinate that is changed goes over p's support.",
        figures={
            "near_point.png": Drawn(
                curves_figure(
                    [
                        Panel(
                            "on p + eps u",
                            {arm: over(arm, first.distances, "error") for arm in arms},
                            "eps",
                            "relative squared error",
                            yscale="log",
                        ),
                        Panel(
                            "on p with one coordinate changed",
                            {arm: over(arm, first.values, "error_one_changed") for arm in arms},
                            "its value (1: p itself)",
                            "relative squared error",
                            yscale="log",
                        ),
                    ],
                    columns=2,
                    order=ARMS,
                ),
                "Output errors around p; the memorising transcoder's grow fastest as one coordinate leaves p",
            )
        },
    )
