"""Slopes from features that are barely active."""

from collections.abc import Sequence

from faithfulness_plugin.benchmarks.note.page.section import (
    ARMS,
    METRICS,
    Drawn,
    Read,
    Section,
    curve_over,
    joined,
    over_seeds,
)
from faithfulness_plugin.benchmarks.note.scan.schema import Masking, ScanResult, Trained
from faithfulness_plugin.results.curves import Panel, curves_figure
from faithfulness_plugin.results.markdown import interval_text, markdown_table


def _masking(trained: Trained) -> Masking:
    assert trained.extras.masking is not None  # the preset asks for it
    return trained.extras.masking


BARELY: Read = lambda t: _masking(t).barely_active  # noqa: E731
RATIO: Read = lambda t: _masking(t).ratio  # noqa: E731


def section(result: ScanResult) -> Section:
    """Over the penalty's weight."""
    weights: Sequence[float] = [float(value or 0) for value in result.spec.grid["gradient_masking_coefficient"]]
    arms = list(result.spec.arms)
    shown = {
        "share of slopes from barely active features": BARELY,
        "slope per written": RATIO,
        "FVU": METRICS["FVU"],
    }
    panels = [
        Panel(
            title,
            {arm: curve_over(result, arm, "gradient_masking_coefficient", read) for arm in arms},
            "gradient-masking coefficient",
            title,
            xscale="symlog",
            yscale="log" if title == "FVU" else "linear",
            linear_below=0.003,
        )
        for title, read in shown.items()
    ]

    def at(arm: str, weight: float, read: Read):
        return over_seeds(result.of(arm, gradient_masking_coefficient=weight), read)

    rows = []
    for arm in arms:
        for weight in weights:
            rows.append(
                [
                    arm,
                    f"{weight:g}",
                    interval_text(at(arm, weight, BARELY), 3),
                    interval_text(at(arm, weight, RATIO), 2),
                    interval_text(at(arm, weight, METRICS["m / max"]), 3),
                    interval_text(at(arm, weight, METRICS["FVU"]), 4),
                    interval_text(at(arm, weight, METRICS["Jacobian error"]), 4),
                ]
            )
    masked = [arm for arm in arms[1:] if at(arm, 0.0, BARELY).mean > at(arms[0], 0.0, BARELY).mean + 0.02]
    helped = [
        arm
        for arm in masked
        if any(
            at(arm, w, BARELY).mean < at(arm, 0.0, BARELY).mean / 2
            and at(arm, w, METRICS["FVU"]).mean < 1.1 * at(arm, 0.0, METRICS["FVU"]).mean
            for w in weights[1:]
        )
    ]
    happens = f"It happens with {', '.join(masked)}" if masked else "It does not happen here beyond what no term shows"
    return Section(
        name="gradient_masking",
        title="Gradient masking",
        claim="Matching Jacobians tempts a transcoder to supply slopes from features that write next to nothing; a "
        "penalty on slopes takes that away.",
        falsifier="Matched transcoders have no larger share of slopes in barely active features than unmatched ones "
        "(by 0.02), or no weight of the penalty halves it at an FVU at most a tenth larger.",
        verdict=_verdict(masked, helped),
        finding=f"{happens}: of the slopes of active features, the share that belongs to features writing less than 1 "
        "% of the rms output is "
        + ", ".join(f"{at(arm, 0.0, BARELY).mean:.3f} ({arm})" for arm in arms)
        + ". "
        + (
            f"Some weight of the penalty halves it at an FVU at most a tenth larger with {', '.join(helped)}."
            if helped
            else "No weight of the penalty halves it at an FVU at most a tenth larger."
            if masked
            else ""
        ),
        table=markdown_table(
            ["arm", "masking coefficient", "barely active", "slope per written", "m / max", "FVU", "Jacobian error"],
            rows,
        ),
        caveat="Barely active: writing less than 1 % of the rms of what rows write. Clean rows. Slope per written: "
        "the sum of slopes ||W_enc|| ||W_dec|| of active features over what they write. The penalty also shrinks "
        "slopes that are needed: read its gain beside FVU and Jacobian error.",
        figures={
            "gradient_masking.png": Drawn(
                curves_figure(panels, order=ARMS), "Gradient masking over the penalty's weight"
            )
        },
    )


def _verdict(masked: list[str], helped: list[str]) -> str:
    if not masked:
        return "Does not happen here."
    left = [arm for arm in masked if arm not in helped]
    if not left:
        return "Holds."
    return f"It happens with {joined(masked)}; the penalty does not help {joined(left)}."
