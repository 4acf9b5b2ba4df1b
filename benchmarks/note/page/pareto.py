"""Methods and controls at matched sparsity."""

from collections.abc import Mapping

from faithfulness_plugin.benchmarks.note.page.at_matched import at_matched
from faithfulness_plugin.benchmarks.note.page.section import ARMS, METRICS, Drawn, Section, joined, mean
from faithfulness_plugin.benchmarks.note.scan.report import emerged
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult
from faithfulness_plugin.results.curves import Curve, Panel, curves_figure
from faithfulness_plugin.results.markdown import interval_text, markdown_table
from faithfulness_plugin.results.schema import Interval

CONTROLS = ("no term", "noise augmentation", "interpolation augmentation")
DIGITS = {"m / max": 3, "FVU": 4, "Jacobian error": 4, "circuits recovered": 1}
LOGARITHMIC = ("FVU", "Jacobian error")
MATCHED_L0 = (1.65, 1.55, 1.45)
MATCHED_PLAIN_L0 = (3.0, 2.5, 1.6)
MATCHED_FVU = 0.02


def section(result: ScanResult) -> Section:
    """Pareto curves, and tables at matched L0 and at matched FVU."""
    arms = list(result.spec.arms)
    settings = result.spec.settings(result.spec.points[0])
    own = settings.density * settings.d_in
    panels = [
        Panel(
            metric,
            {
                arm: Curve(*zip(*_cells(result, arm, metric), strict=True))  # pyright: ignore[reportArgumentType]
                for arm in arms
            },
            "effective L0",
            metric,
            yscale="log" if metric in LOGARITHMIC else "linear",
            marks={"the layer's own": own},
        )
        for metric in DIGITS
    ]
    places = {
        **{f"at effective L0 {target:g}": ("effective L0", target) for target in MATCHED_L0},
        **{f"at plain L0 {target:g}": ("plain L0", target) for target in MATCHED_PLAIN_L0},
        f"at FVU {MATCHED_FVU:g}": ("FVU", MATCHED_FVU),
    }
    found: dict[str, dict[str, dict[str, Interval | None]]] = {}
    tables = []
    for where, (by, target) in places.items():
        names = [metric for metric in (*DIGITS, "effective L0") if metric != by and (metric in DIGITS or by == "FVU")]
        found[where] = {
            arm: {
                metric: at_matched(result, arm, METRICS[metric], target, METRICS[by], log=metric in LOGARITHMIC)
                for metric in names
            }
            for arm in arms
        }
        rows = [[arm, *(_cell(value, metric) for metric, value in of.items())] for arm, of in found[where].items()]
        tables.append(f"{where[0].upper()}{where[1:]}:\n\n" + markdown_table(["arm", *names], rows))
    emergence = {
        arm: [
            float(p or 0)
            for p in result.spec.grid["sparsity_coefficient"]
            if emerged(result.of(arm, sparsity_coefficient=p))
        ]
        for arm in arms
    }
    methods = [arm for arm in arms if arm not in CONTROLS]
    ahead, equal = _compared(found, methods)
    return Section(
        name="pareto",
        title="Controls: everything at matched sparsity",
        claim="Jacobian matching, not sparsity or augmentation, removes memorization and lowers the Jacobian error: "
        "at equal L0, plain or effective, and at equal FVU the best matched arm is ahead of no term and of both "
        "augmentation controls.",
        falsifier="At one of the places compared the 95 % interval of a control reaches the best matched arm's m / "
        "max, Jacobian error or number of recovered circuits.",
        verdict="Holds at every place compared." if not equal else f"Holds in part. {' '.join(equal)}",
        finding=" ".join(ahead)
        + " Some seed memorises, by penalty: "
        + "; ".join(f"{arm}: {f'from {min(of):g} on' if of else 'nowhere'}" for arm, of in emergence.items())
        + ". Effective L0 leaves out features that write less than 1 % of the rms output, and the secant has many of "
        "those: by plain L0 it is another ranking.",
        table="\n\n".join(tables),
        caveat="Means and 95 % intervals over seeds, of FVU and Jacobian error geometric. Each seed's curve over the "
        "penalty is interpolated to the given L0 (FVU and Jacobian error by their logarithms); seeds whose curve "
        "does not pass it are left out, and fewer than two give no value. The noise control has as much noise as the "
        "Jacobian's jitter, the interpolation control goes as far as the secant along differences. Weights are fixed "
        "along a curve: 10 (Jacobian, secant), 5 (differences), 1 (controls). In the figure every curve is the mean "
        "over seeds.",
        figures={
            "pareto.png": Drawn(
                curves_figure(panels, columns=2, order=ARMS),
                "m, FVU, Jacobian error and recovered circuits against effective L0 for methods and controls",
            )
        },
    )


def _cells(result: ScanResult, arm: str, metric: str) -> list[tuple[float, float]]:
    """(effective L0, metric), means over seeds, along the penalty."""
    return [
        (mean(of, METRICS["effective L0"]), max(mean(of, METRICS[metric]), 1e-6 if metric in LOGARITHMIC else 0.0))
        for penalty in result.spec.grid["sparsity_coefficient"]
        if (of := result.of(arm, sparsity_coefficient=penalty))
    ]


def _cell(value: Interval | None, metric: str) -> str:
    if value is None:
        return "not reached"
    digits = DIGITS.get(metric, 3)
    if metric in LOGARITHMIC:  # geometric, so that the interval is not symmetric
        if value.seen is not None:
            return f"{value.mean:.2g} ({value.seen[0]:.2g} to {value.seen[1]:.2g}) (n {value.n})"
        return f"{value.mean:.2g} [{value.low:.2g}, {value.high:.2g}] (n {value.n})"
    return f"{interval_text(value, digits)} (n {value.n})"


def _compared(
    places: Mapping[str, Mapping[str, Mapping[str, Interval | None]]], methods: list[str]
) -> tuple[list[str], list[str]]:
    """By place: the Jacobian errors of the best matched arm and of the best control; and what a control does as well as
    the best matched arm, or better than one of them."""
    ahead, equal = [], []
    for where, found in places.items():
        errors = {arm: value.mean for arm, of in found.items() if (value := of["Jacobian error"]) is not None}
        ours = {arm: error for arm, error in errors.items() if arm in methods}
        theirs = {arm: error for arm, error in errors.items() if arm in CONTROLS}
        if ours and theirs:
            best, nearest = min(ours, key=ours.__getitem__), min(theirs, key=theirs.__getitem__)
            ahead.append(
                f"{where[0].upper()}{where[1:]} the lowest Jacobian error of a matched arm is {ours[best]:.2g} "
                f"({best}), of a control {theirs[nearest]:.2g} ({nearest})."
            )
        reached = []
        for metric in ("m / max", "Jacobian error", "circuits recovered"):
            sign = -1 if metric == "circuits recovered" else 1
            of_methods = [sign * value.mean for arm in methods if (value := found[arm][metric]) is not None]
            if not of_methods:
                continue
            goal = min(of_methods) + (1e-3 if metric == "m / max" else 0.0)
            if any((value := found[c][metric]) is not None and _best(value, sign) <= goal for c in CONTROLS):
                reached.append(metric)
        if reached:
            equal.append(f"{where[0].upper()}{where[1:]} a control does as well on {joined(reached)}.")
        behind = [arm for arm in ours if theirs and ours[arm] > min(theirs.values())]
        if behind:
            verb = "has" if len(behind) == 1 else "have"
            equal.append(
                f"{where[0].upper()}{where[1:]} {joined(behind)} {verb} a larger Jacobian error than a control."
            )
    return ahead, equal


def _best(value: Interval, sign: int) -> float:
    """The good end of the interval, small being good for sign 1."""
    end = value.low if sign > 0 else value.high
    return sign * (value.mean if end is None else end)
