"""The coefficient that is needed, over the penalty and the number of ones."""

from itertools import pairwise
from math import inf
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from faithfulness_plugin.benchmarks.note.page.coefficient import COEFFICIENT, sufficient
from faithfulness_plugin.benchmarks.note.page.section import Section, grid
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult
from faithfulness_plugin.results.curves import Curve, Panel, curves_figure
from faithfulness_plugin.results.markdown import markdown_table

ENOUGH = 4  # settings that a power law is fitted to


def section(result: ScanResult) -> Section:
    """Show which coefficient is needed, over the penalty and the number of ones.

    Args:
        result: the result of the preset "coefficient_needed".

    Returns:
        The needed coefficients, and a power law where enough of them are known.
    """
    penalties, ones = grid(result, "sparsity_coefficient"), [int(k) for k in grid(result, "n_ones")]
    largest = max(grid(result, COEFFICIENT))
    found = {(p, k): sufficient(result, sparsity_coefficient=p, n_ones=k) for p in penalties for k in ones}
    known = {key: value for key, value in found.items() if value}
    size = {key: inf if value is None else value for key, value in found.items()}

    def cell(penalty: float, k: int) -> str:
        value = found[penalty, k]
        if value is None:
            return f"> {largest:g}"
        return "does not form" if value == 0 else f"{value:g}"

    curves = {f"{k} ones": [(p, known[p, k]) for p in penalties if (p, k) in known] for k in ones}
    panel = Panel(
        "needed coefficient",
        {name: Curve(*zip(*points, strict=True)) for name, points in curves.items() if points},  # pyright: ignore
        "sparsity coefficient",
        "no seed memorises from",
        yscale="log",
    )
    return Section(
        "coefficient_needed",
        {
            "holds": all(size[p, a] <= size[p, b] for p in penalties for a, b in pairwise(ones)),
            "law": _power_law(known) if len(known) >= ENOUGH else None,
            "n_known": len(known),
            "n_settings": len(found),
            "seeds": result.spec.seeds,
        },
        markdown_table(
            ["penalty", *(f"{k} ones" for k in ones)], [[f"{p:g}", *(cell(p, k) for k in ones)] for p in penalties]
        ),
        {"coefficient_needed.png": curves_figure([panel])},
    )


def _power_law(known: dict[tuple[float, int], float]) -> dict[str, Any]:
    """Fit penalty^a (ones - 1)^b by least squares on logarithms; and the rank correlation with penalty (ones - 1)."""
    saved = np.array([penalty * (k - 1) for penalty, k in known])
    values = np.array(list(known.values()))
    logs = np.column_stack([np.ones(len(known)), *np.log([[penalty, k - 1] for penalty, k in known]).T])
    _, of_penalty, of_ones = np.linalg.lstsq(logs, np.log(values), rcond=None)[0]
    return {
        "rank": float(np.asarray(spearmanr(saved.round(9), values))[0]),
        "penalty": float(of_penalty),
        "ones": float(of_ones),
    }
