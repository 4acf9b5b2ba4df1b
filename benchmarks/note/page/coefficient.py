"""Memorization over the weight of the Jacobian term."""

import numpy as np

from faithfulness_plugin.benchmarks.note.page.section import ARMS, Section, curve_over, grid, mean
from faithfulness_plugin.benchmarks.note.scan.report import METRICS, emerged
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult
from faithfulness_plugin.benchmarks.note.scan.spec import Value
from faithfulness_plugin.results.curves import Panel, Scale, curves_figure
from faithfulness_plugin.results.markdown import markdown_table

COEFFICIENT, PENALTY = "jacobian_coefficient", "sparsity_coefficient"
SHOWN: dict[str, Scale] = {"m / max": "linear", "FVU": "log", "Jacobian error": "log"}


def sufficient(result: ScanResult, arm: str | None = None, **fixed: Value) -> float | None:
    """Find the smallest coefficient from which on no seed memorises.

    Args:
        result: a scan over the Jacobian coefficient.
        arm: the arm's name, or None for all arms.
        **fixed: values of the grid's other settings.

    Returns:
        The coefficient (0: no seed memorises without the term either), or None where some seed does at the largest.
    """
    smallest = None
    for value in reversed(grid(result, COEFFICIENT)):
        if emerged(result.of(arm, **{COEFFICIENT: value}, **fixed)):
            break
        smallest = value
    return smallest


def section(result: ScanResult) -> Section:
    """Show memorization and the errors over the Jacobian coefficient.

    Args:
        result: the result of the preset "coefficient".

    Returns:
        Curves at every penalty, and the coefficient that suffices at each.
    """
    penalties, values, arms = grid(result, PENALTY), grid(result, COEFFICIENT), list(result.spec.arms)
    panels = [
        Panel(
            f"{metric}, penalty {penalty:g}",
            {arm: curve_over(result, arm, COEFFICIENT, METRICS[metric], sparsity_coefficient=penalty) for arm in arms},
            "Jacobian coefficient",
            metric,
            xscale="symlog",
            yscale=scale,
        )
        for penalty in penalties
        for metric, scale in SHOWN.items()
    ]
    needed = {(arm, p): sufficient(result, arm, sparsity_coefficient=p) for arm in arms for p in penalties}
    fvu = {
        arm: {
            p: [mean(result.of(arm, **{PENALTY: p, COEFFICIENT: value}), METRICS["FVU"]) for value in values]
            for p in penalties
        }
        for arm in arms
    }
    header = [
        "estimator",
        "penalty",
        "no seed memorises from",
        "FVU without the term",
        "lowest FVU",
        "largest FVU with the term",
        "effective L0 at the largest coefficient",
    ]
    rows = []
    for arm, penalty in needed:
        of, suffices = fvu[arm][penalty], needed[arm, penalty]
        least, most = int(np.argmin(of)), 1 + int(np.argmax(of[1:]))
        at_the_end = result.of(arm, **{PENALTY: penalty, COEFFICIENT: values[-1]})
        rows.append(
            [
                arm,
                f"{penalty:g}",
                "none" if suffices is None else f"{suffices:g}",
                f"{of[0]:.4f}",
                *(f"{of[i]:.4f} at {values[i]:g}" for i in (least, most)),
                f"{mean(at_the_end, METRICS['effective L0']):.3f}",
            ]
        )
    return Section(
        "coefficient",
        {"holds": None not in needed.values(), "cost": fvu},
        markdown_table(header, rows),
        {"coefficient.png": curves_figure(panels, order=ARMS)},
    )
