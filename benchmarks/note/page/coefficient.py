"""Memorization over the weight of the Jacobian term."""

from faithfulness_plugin.benchmarks.note.page.section import ARMS, METRICS, Drawn, Section, curve_over, mean
from faithfulness_plugin.benchmarks.note.scan.report import emerged
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult
from faithfulness_plugin.results.curves import Panel, curves_figure
from faithfulness_plugin.results.markdown import markdown_table

SHOWN = {"m / max": "linear", "FVU": "log", "Jacobian error": "log"}


def removed_from(result: ScanResult, arm: str, penalty: float) -> float | None:
    """The smallest coefficient from which on no seed memorises, or None."""
    values = [float(value or 0) for value in result.spec.grid["jacobian_coefficient"]]
    smallest = None
    for value in reversed(values):
        if emerged(result.of(arm, sparsity_coefficient=penalty, jacobian_coefficient=value)):
            break
        smallest = value
    return smallest


def section(result: ScanResult) -> Section:
    """Curves at every penalty, and the coefficient that suffices."""
    penalties = [float(value or 0) for value in result.spec.grid["sparsity_coefficient"]]
    values = [float(value or 0) for value in result.spec.grid["jacobian_coefficient"]]
    arms = list(result.spec.arms)
    panels = [
        Panel(
            f"{metric}, penalty {penalty:g}",
            {
                a: curve_over(result, a, "jacobian_coefficient", METRICS[metric], sparsity_coefficient=penalty)
                for a in arms
            },
            "Jacobian coefficient",
            metric,
            xscale="symlog",
            yscale=scale,  # pyright: ignore[reportArgumentType]
        )
        for penalty in penalties
        for metric, scale in SHOWN.items()
    ]
    needed = {(arm, penalty): removed_from(result, arm, penalty) for arm in arms for penalty in penalties}
    rows = []
    for arm in arms:
        for penalty in penalties:
            of = [result.of(arm, sparsity_coefficient=penalty, jacobian_coefficient=value) for value in values]
            fvu = [mean(trained, METRICS["FVU"]) for trained in of]
            best = min(range(len(fvu)), key=fvu.__getitem__)
            suffices = needed[arm, penalty]
            rows.append(
                [
                    arm,
                    f"{penalty:g}",
                    "none" if suffices is None else f"{suffices:g}",
                    f"{fvu[0]:.4f}",
                    f"{fvu[best]:.4f} at {values[best]:g}",
                    f"{max(fvu[1:]):.4f} at {values[1 + fvu[1:].index(max(fvu[1:]))]:g}",
                    f"{mean(of[-1], METRICS['effective L0']):.3f}",
                ]
            )
    all_removed = all(value is not None for value in needed.values())
    return Section(
        name="coefficient",
        title="How much weight the Jacobian term needs, and the kink",
        claim="From some coefficient on, no seed memorises, whichever estimator is used.",
        falsifier="An estimator at which some seed memorises at the largest coefficient.",
        verdict="Holds." if all_removed else "Does not hold for every estimator.",
        finding="Most coordinates are exactly 0, where |x| has no derivative and autograd returns 0. "
        + " ".join(f"{arm[0].upper()}{arm[1:]}, {_cost(result, arm)}." for arm in arms),
        table=markdown_table(
            [
                "estimator",
                "penalty",
                "no seed memorises from",
                "FVU without the term",
                "lowest FVU",
                "largest FVU with the term",
                "effective L0 at the largest coefficient",
            ],
            rows,
        ),
        caveat="Coefficients in the layer's unit: 1 makes losing the whole Jacobian as costly as losing the whole "
        "output. Bands: 95 % intervals over seeds.",
        figures={
            "coefficient.png": Drawn(
                curves_figure(panels, order=ARMS),
                "Memorization, FVU and Jacobian error over the coefficient, per estimator, at two penalties",
            )
        },
    )


def _cost(result: ScanResult, arm: str) -> str:
    """What the term costs, or gains, in FVU."""
    said = []
    for penalty in result.spec.grid["sparsity_coefficient"]:
        without, *fvu = (
            mean(result.of(arm, sparsity_coefficient=penalty, jacobian_coefficient=value), METRICS["FVU"])
            for value in result.spec.grid["jacobian_coefficient"]
        )
        said.append(
            f"at penalty {penalty:g} the FVU, {without:.3f} without the term, is {max(fvu):.3f} at most and "
            f"{fvu[-1]:.4f} at the largest coefficient"
        )
    return "; ".join(said)
