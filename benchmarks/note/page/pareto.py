"""Methods and controls at matched sparsity."""

from collections.abc import Mapping
from typing import Any

from faithfulness_plugin.benchmarks.note.page.at_matched import at_matched
from faithfulness_plugin.benchmarks.note.page.section import ARMS, Section, grid, mean
from faithfulness_plugin.benchmarks.note.scan.report import DIGITS, METRICS, emerged
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult
from faithfulness_plugin.results.curves import Curve, Panel, curves_figure
from faithfulness_plugin.results.markdown import interval_text, markdown_table
from faithfulness_plugin.results.schema import Interval

CONTROLS = ("no term", "noise augmentation", "interpolation augmentation")
SHOWN = ("m / max", "FVU", "Jacobian error", "circuits recovered")
LOGARITHMIC = ("FVU", "Jacobian error")
PLACES = (
    *(("effective L0", target) for target in (1.65, 1.55, 1.45)),
    *(("plain L0", target) for target in (3.0, 2.5, 1.6)),
    ("FVU", 0.02),
)
"""Where arms are compared: (what is matched, at which value)."""
COMPARED = {"m / max": 1, "Jacobian error": 1, "circuits recovered": -1}
"""What is compared there; 1 where small is good."""
NEGLIGIBLE_M = 1e-3

Found = Mapping[str, Mapping[str, Interval | None]]
"""{arm: {metric: its value at a place, or None where the arm does not get there}}."""


def section(result: ScanResult) -> Section:
    """Compare methods and controls at matched sparsity.

    Args:
        result: the result of the preset "pareto".

    Returns:
        Pareto curves, and tables at matched L0 and at matched FVU.
    """
    arms, penalties = list(result.spec.arms), grid(result, "sparsity_coefficient")
    settings = result.spec.settings(result.spec.points[0])
    panels = [
        Panel(
            metric,
            {arm: _curve(result, arm, metric) for arm in arms},
            "effective L0",
            metric,
            yscale="log" if metric in LOGARITHMIC else "linear",
            marks={"the layer's own": settings.density * settings.d_in},
        )
        for metric in SHOWN
    ]
    tables, places = [], []
    for by, target in PLACES:
        where = f"At {by} {target:g}"
        metrics = [metric for metric in SHOWN if metric != by] + ["effective L0"] * (by == "FVU")
        found: Found = {
            arm: {
                metric: at_matched(result, arm, METRICS[metric], target, METRICS[by], log=metric in LOGARITHMIC)
                for metric in metrics
            }
            for arm in arms
        }
        rows = [[arm, *(_cell(value, metric) for metric, value in of.items())] for arm, of in found.items()]
        tables.append(f"{where}:\n\n{markdown_table(['arm', *metrics], rows)}")
        places.append({"where": where, **_compared(found)})
    return Section(
        "pareto",
        {
            "holds": not any(place["reached"] or place["behind"] for place in places),
            "places": places,
            "emergence": {
                arm: [p for p in penalties if emerged(result.of(arm, sparsity_coefficient=p))] for arm in arms
            },
        },
        "\n\n".join(tables),
        {"pareto.png": curves_figure(panels, columns=2, order=ARMS)},
    )


def _curve(result: ScanResult, arm: str, metric: str) -> Curve:
    """Return a metric over effective L0, means over seeds, along the penalty."""
    least = 1e-6 if metric in LOGARITHMIC else 0.0
    cells = [result.of(arm, sparsity_coefficient=p) for p in grid(result, "sparsity_coefficient")]
    return Curve(
        [mean(of, METRICS["effective L0"]) for of in cells], [max(mean(of, METRICS[metric]), least) for of in cells]
    )


def _cell(value: Interval | None, metric: str) -> str:
    if value is None:
        return "not reached"
    if metric not in LOGARITHMIC:
        return f"{interval_text(value, DIGITS[metric])} (n {value.n})"
    # a geometric mean, so that the interval is not symmetric
    if value.seen is not None:
        return f"{value.mean:.2g} ({value.seen[0]:.2g} to {value.seen[1]:.2g}) (n {value.n})"
    return f"{value.mean:.2g} [{value.low:.2g}, {value.high:.2g}] (n {value.n})"


def _compared(found: Found) -> dict[str, Any]:
    """Compare matched arms with controls at one place: the best of each by Jacobian error ("ours", "theirs"; None where
    there is none), the metrics on which some control's interval reaches the best matched arm ("reached"), and the
    matched arms whose Jacobian error is larger than some control's ("behind").
    """
    errors = {arm: value.mean for arm, of in found.items() if (value := of["Jacobian error"]) is not None}
    ours = {arm: error for arm, error in errors.items() if arm not in CONTROLS}
    theirs = {arm: error for arm, error in errors.items() if arm in CONTROLS}
    return {
        "ours": _least(ours),
        "theirs": _least(theirs),
        "reached": [metric for metric in COMPARED if _reached(found, metric)],
        "behind": [arm for arm, error in ours.items() if theirs and error > min(theirs.values())],
    }


def _least(errors: Mapping[str, float]) -> dict[str, Any] | None:
    if not errors:
        return None
    arm = min(errors, key=errors.__getitem__)
    return {"arm": arm, "error": errors[arm]}


def _reached(found: Found, metric: str) -> bool:
    """Tell whether a control's interval reaches the best matched arm's mean."""
    sign = COMPARED[metric]
    values = {arm: value for arm, of in found.items() if (value := of[metric]) is not None}
    matched = [sign * value.mean for arm, value in values.items() if arm not in CONTROLS]
    if not matched:
        return False
    goal = min(matched) + (NEGLIGIBLE_M if metric == "m / max" else 0.0)
    return any(_good_end(value, sign) <= goal for arm, value in values.items() if arm in CONTROLS)


def _good_end(value: Interval, sign: int) -> float:
    end = value.low if sign > 0 else value.high
    return sign * (value.mean if end is None else end)
