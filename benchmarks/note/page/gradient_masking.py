"""Slopes from features that are barely active."""

from operator import attrgetter

from faithfulness_plugin.benchmarks.note.page.section import ARMS, Section, curve_over, grid, mean
from faithfulness_plugin.benchmarks.note.scan.report import DIGITS, METRICS, Read, seeds_table
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult
from faithfulness_plugin.results.curves import Panel, curves_figure

WEIGHT = "gradient_masking_coefficient"
BARELY: Read = attrgetter("extras.masking.barely_active")
RATIO: Read = attrgetter("extras.masking.ratio")
MORE = 0.02
"""By how much the share of barely active features must exceed that without a term to count."""


def section(result: ScanResult) -> Section:
    """Show the share of slopes that come from barely active features, over the penalty's weight.

    Args:
        result: the result of the preset "gradient_masking".

    Returns:
        Curves for each arm, and the arms for which a weight of the penalty helps.
    """
    weights, arms = grid(result, WEIGHT), list(result.spec.arms)
    shown = {
        "share of slopes from barely active features": BARELY,
        "slope per written": RATIO,
        "FVU": METRICS["FVU"],
    }
    panels = [
        Panel(
            title,
            {arm: curve_over(result, arm, WEIGHT, read) for arm in arms},
            "gradient-masking coefficient",
            title,
            xscale="symlog",
            yscale="log" if title == "FVU" else "linear",
            linear_below=0.003,
        )
        for title, read in shown.items()
    ]
    columns = {"barely active": (BARELY, 3), "slope per written": (RATIO, 2)}
    columns |= {name: (METRICS[name], DIGITS[name]) for name in ("m / max", "FVU", "Jacobian error")}

    def at(arm: str, weight: float, read: Read) -> float:
        return mean(result.of(arm, **{WEIGHT: weight}), read)

    def helps(arm: str, weight: float) -> bool:
        """Tell whether this weight halves the share at an FVU at most a tenth larger."""
        fewer = at(arm, weight, BARELY) < at(arm, 0.0, BARELY) / 2
        return fewer and at(arm, weight, METRICS["FVU"]) < 1.1 * at(arm, 0.0, METRICS["FVU"])

    barely = {arm: at(arm, 0.0, BARELY) for arm in arms}
    masked = [arm for arm in arms[1:] if barely[arm] > barely[arms[0]] + MORE]
    helped = [arm for arm in masked if any(helps(arm, weight) for weight in weights[1:])]
    return Section(
        "gradient_masking",
        {
            "masked": masked,
            "helped": helped,
            "unhelped": [arm for arm in masked if arm not in helped],
            "barely": barely,
        },
        seeds_table(
            ["arm", "masking coefficient"],
            [([arm, f"{weight:g}"], result.of(arm, **{WEIGHT: weight})) for arm in arms for weight in weights],
            columns,
        ),
        {"gradient_masking.png": curves_figure(panels, order=ARMS)},
    )
