"""The coefficient that is needed, over the penalty and the number of ones."""

from itertools import pairwise

import numpy as np
from scipy.stats import spearmanr

from faithfulness_plugin.benchmarks.note.page.section import Drawn, Section
from faithfulness_plugin.benchmarks.note.scan.report import emerged
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult
from faithfulness_plugin.results.curves import Curve, Panel, curves_figure
from faithfulness_plugin.results.markdown import markdown_table


def needed(result: ScanResult, penalty: float, n_ones: int) -> float | None:
    """The smallest coefficient of the grid from which on no seed memorises; None where the largest is too small."""
    smallest = None
    for value in reversed(result.spec.grid["jacobian_coefficient"]):
        if emerged(result.of(sparsity_coefficient=penalty, n_ones=n_ones, jacobian_coefficient=value)):
            break
        smallest = float(value or 0)
    return smallest


def section(result: ScanResult) -> Section:
    """Curves and a power law."""
    penalties = [float(value or 0) for value in result.spec.grid["sparsity_coefficient"]]
    ones = [int(value or 0) for value in result.spec.grid["n_ones"]]
    largest = max(float(value or 0) for value in result.spec.grid["jacobian_coefficient"])
    found = {(penalty, k): needed(result, penalty, k) for penalty in penalties for k in ones}
    known = {key: value for key, value in found.items() if value}
    saved = np.array([penalty * (k - 1) for penalty, k in known])
    values = np.array(list(known.values()))
    enough = len(known) > 3
    rank = float(np.asarray(spearmanr(saved.round(9), values))[0]) if enough else 0.0
    logs = np.column_stack([np.ones(len(known)), *np.log([[penalty, k - 1] for penalty, k in known]).T])
    _, of_penalty, of_ones = np.linalg.lstsq(logs, np.log(values), rcond=None)[0] if enough else (0.0, 0.0, 0.0)
    grows = all(
        (found[penalty, a] or (np.inf if found[penalty, a] is None else 0))
        <= (found[penalty, b] or (np.inf if found[penalty, b] is None else 0))
        for penalty in penalties
        for a, b in pairwise(ones)
    )

    def cell(penalty: float, k: int) -> str:
        value = found[penalty, k]
        if value is None:
            return f"> {largest:g}"
        return "does not form" if value == 0 else f"{value:g}"

    curves = {
        f"{k} ones": Curve(
            [p for p in penalties if found[p, k]], [found[p, k] or 0.0 for p in penalties if found[p, k]]
        )
        for k in ones
    }
    return Section(
        name="coefficient_needed",
        title="The coefficient that is needed",
        claim="The coefficient that removes memorization grows with what memorization saves: the penalty times the "
        "number of features that one datapoint feature replaces, less one.",
        falsifier="At some penalty more ones need a smaller coefficient.",
        verdict="Holds." if grows else "Does not hold at every penalty.",
        finding=f"Where the feature forms and the grid holds the answer ({len(known)} of {len(found)} settings), the "
        f"needed coefficient grows with penalty * (ones - 1) (rank correlation {rank:.2f}); with an exponent each, by "
        f"least squares on logarithms, as penalty^{of_penalty:.1f} (ones - 1)^{of_ones:.1f}.",
        table=markdown_table(
            ["penalty", *(f"{k} ones" for k in ones)], [[f"{p:g}", *(cell(p, k) for k in ones)] for p in penalties]
        ),
        caveat=f"Jittered Jacobian, {result.spec.seeds} seeds a cell, coefficients a factor of 2 apart: the answer is "
        "known to that factor. d_in and density stay as they are, so that p with more ones is also further from the "
        "other rows.",
        figures={
            "coefficient_needed.png": Drawn(
                curves_figure(
                    [
                        Panel(
                            "needed coefficient",
                            {k: c for k, c in curves.items() if c.x},
                            "sparsity coefficient",
                            "no seed memorises from",
                            yscale="log",
                        )
                    ]
                ),
                "The needed coefficient over the penalty, a line per number of ones",
            )
        },
    )
