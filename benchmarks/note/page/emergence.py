"""Where the datapoint feature forms."""

import numpy as np

from faithfulness_plugin.benchmarks.figures.emergence_map import emergence_map
from faithfulness_plugin.benchmarks.note.page.product_law import ProductLaw, product_law
from faithfulness_plugin.benchmarks.note.page.section import Section, grid, mean
from faithfulness_plugin.benchmarks.note.scan.report import METRICS, cells, emerged
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult
from faithfulness_plugin.results.markdown import markdown_table

CLEARLY, A_LITTLE = 0.05, 0.01
"""Shares of deviance that another law explains beyond the product's."""


def _fitted(result: ScanResult) -> ProductLaw:
    """Fit the law to the cells of a scan."""
    of = cells(result)
    settings = [dict(zip(result.spec.grid, values, strict=True)) for _, values in of]
    return product_law(
        [float(s["repeat_frac"] or 0) for s in settings],
        [float(s["sparsity_coefficient"] or 0) for s in settings],
        [emerged(trained) for trained in of.values()],
        [len(trained) for trained in of.values()],
    )


def section(result: ScanResult) -> Section:
    """Show where the datapoint feature forms.

    Args:
        result: the result of the preset "emergence".

    Returns:
        The map of m, and the fits.

    Raises:
        ValueError: emergence is the same in all cells, so that no law can be fitted.
    """
    law = _fitted(result)
    repeats, penalties = grid(result, "repeat_frac"), grid(result, "sparsity_coefficient")
    m = np.array(
        [
            [mean(result.of(repeat_frac=r, sparsity_coefficient=s), METRICS["m / max"]) for s in penalties]
            for r in repeats
        ]
    )
    explained = {
        "log product": law.product,
        "log repeat_frac, log sparsity": law.both,
        "log product, log(repeat_frac / sparsity) squared": law.curved,
        "log repeat_frac": law.repeat,
        "log sparsity": law.sparsity,
    }
    axes = ("sparsity coefficient", "repeat_frac: share of rows that are p")
    return Section(
        "emergence",
        {
            "law": law,
            "holds": max(law.both, law.curved) - law.product < CLEARLY,
            "bent": law.curved - law.product > A_LITTLE,
            "unanimous": sum(emerged(of) in (0, len(of)) for of in cells(result).values()),
            "n_cells": len(cells(result)),
            "seeds": result.spec.seeds,
        },
        markdown_table(
            ["regressors", "deviance explained"], [[name, f"{share:.3f}"] for name, share in explained.items()]
        ),
        {"emergence.png": emergence_map(m, penalties, repeats, *axes, law.threshold)},
    )
