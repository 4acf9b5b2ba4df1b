"""The outputs one step away from p."""

import numpy as np

from faithfulness_plugin.benchmarks.note.page.section import ARMS, Drawn, Section, band, joined, over_seeds
from faithfulness_plugin.benchmarks.note.scan.schema import NearPointCurves, ScanResult, Trained
from faithfulness_plugin.results.curves import Curve, Panel, curves_figure
from faithfulness_plugin.results.intervals import interval
from faithfulness_plugin.results.markdown import interval_text, markdown_table


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

    def at(arm: str, name: str, i: int) -> float:
        return over_seeds(result.of(arm), lambda t: getattr(_curves(t), name)[i]).mean

    at_zero = {arm: at(arm, "error_one_changed", -1) for arm in arms}
    at_p = {arm: at(arm, "error_one_changed", 0) for arm in arms}
    far = {arm: at(arm, "error", -1) for arm in arms}
    reference, memorised = at_zero["baseline"], at_zero["repetition"]
    others = {arm: value for arm, value in at_zero.items() if arm not in ("baseline", "repetition")}
    holds = memorised > 2 * reference and max(others["Jacobian"], others["secant"]) < 2 * reference
    control = "noise augmentation"
    beaten = [arm for arm in ("Jacobian", "secant") if far[control] < far[arm]]
    return Section(
        name="near_point",
        title="One step away from p",
        claim="A transcoder that memorises p is right at p and wrong beside it; a matched one is not.",
        falsifier="With one coordinate of p set to 0, the memorising transcoder's error is not above twice the "
        "baseline's, or a matched one's is.",
        verdict=("Holds." if holds else "Does not hold.")
        + (f" On p + eps u, eps 1, {control} is ahead of {joined(beaten)}." if beaten else ""),
        finding="With one of p's ones set to 0 the memorising transcoder's relative squared error is "
        f"{memorised:.3f}, the baseline's {reference:.4f}, and "
        + ", ".join(f"{value:.4f} ({arm})" for arm, value in others.items())
        + f". At p itself the memorising transcoder's error is {at_p['repetition']:.4f}, the baseline's "
        f"{at_p['baseline']:.4f}. On p + eps u at eps 1: "
        + ", ".join(f"{v:.4f} ({arm})" for arm, v in far.items())
        + ".",
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
                "Output errors on p + eps u and on p with one coordinate changed, per arm",
            )
        },
    )
