"""The outputs one step away from p."""

from operator import attrgetter
from typing import Any

from faithfulness_plugin.benchmarks.note.page.section import ARMS, Section, band, mean
from faithfulness_plugin.benchmarks.note.scan.report import Read, over_seeds, seeds_table
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult
from faithfulness_plugin.results.curves import Curve, Panel, curves_figure

AWAY, CHANGED = "error", "error_one_changed"
MATCHED, CONTROL = ("Jacobian", "secant"), "noise augmentation"


def _at(name: str, i: int) -> Read:
    read = attrgetter(f"extras.near_point.{name}")
    return lambda trained: read(trained)[i]


def section(result: ScanResult) -> Section:
    """Show the outputs' error one step away from p.

    Args:
        result: the result of the preset "near_point".

    Returns:
        Curves over the distance, and over the value of one changed coordinate, with bands over seeds.
    """
    arms = list(result.spec.arms)
    first: Any = result.trained[0].extras.near_point

    def over(arm: str, x: list[float], name: str) -> Curve:
        return band(x, [over_seeds(result.of(arm), _at(name, i)) for i in range(len(x))])

    def means(name: str, i: int) -> dict[str, float]:
        return {arm: mean(result.of(arm), _at(name, i)) for arm in arms}

    at_zero, at_p, far = means(CHANGED, -1), means(CHANGED, 0), means(AWAY, -1)
    columns = {f"eps {first.distances[i]:g}": (_at(AWAY, i), 4) for i in (1, 5, -1)}
    columns |= {f"a one set to {first.values[i]:g}": (_at(CHANGED, i), 4) for i in (0, 5, -1)}
    panels = [
        Panel(title, {arm: over(arm, x, name) for arm in arms}, label, "relative squared error", yscale="log")
        for title, x, name, label in (
            ("on p + eps u", first.distances, AWAY, "eps"),
            ("on p with one coordinate changed", first.values, CHANGED, "its value (1: p itself)"),
        )
    ]
    twice = 2 * at_zero["baseline"]
    return Section(
        "near_point",
        {
            "holds": at_zero["repetition"] > twice and all(at_zero[arm] < twice for arm in MATCHED),
            "behind_noise": [arm for arm in MATCHED if far[CONTROL] < far[arm]],
            "at_zero": at_zero,
            "at_p": at_p,
            "far": far,
            "others": {arm: value for arm, value in at_zero.items() if arm not in ("baseline", "repetition")},
        },
        seeds_table(["arm"], [([arm], result.of(arm)) for arm in arms], columns),
        {"near_point.png": curves_figure(panels, columns=2, order=ARMS)},
    )
