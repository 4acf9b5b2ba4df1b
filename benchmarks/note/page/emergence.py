"""Where the datapoint feature forms."""

import numpy as np

from faithfulness_plugin.benchmarks.figures.emergence_map import emergence_map
from faithfulness_plugin.benchmarks.note.page.product_law import ProductLaw, product_law
from faithfulness_plugin.benchmarks.note.page.section import METRICS, Drawn, Section, mean, percent
from faithfulness_plugin.benchmarks.note.scan.report import cells, emerged
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult
from faithfulness_plugin.results.markdown import markdown_table


def fitted(result: ScanResult) -> ProductLaw:
    """The law over the cells of this scan."""
    of = cells(result)
    settings = [dict(zip(result.spec.grid, values, strict=True)) for _, values in of]
    return product_law(
        [float(s["repeat_frac"] or 0) for s in settings],
        [float(s["sparsity_coefficient"] or 0) for s in settings],
        [emerged(trained) for trained in of.values()],
        [len(trained) for trained in of.values()],
    )


def section(result: ScanResult) -> Section:
    """The map and the fits."""
    law = fitted(result)
    repeats = [float(value or 0) for value in result.spec.grid["repeat_frac"]]
    penalties = [float(value or 0) for value in result.spec.grid["sparsity_coefficient"]]
    m = np.array(
        [
            [mean(result.of(repeat_frac=r, sparsity_coefficient=s), METRICS["m / max"]) for s in penalties]
            for r in repeats
        ]
    )
    partial = sum(0 < emerged(of) < len(of) for of in cells(result).values())
    near = max(law.both, law.curved) - law.product < 0.05
    bent = law.curved - law.product > 0.01
    return Section(
        name="emergence",
        title="When the datapoint feature forms",
        claim="The product of repetition and sparsity decides whether the datapoint feature forms.",
        falsifier="Repetition and sparsity with a weight each, or a law with bent iso-lines, explain clearly more "
        "deviance (5 % or more) than their product.",
        verdict=("Holds to first order" + (", with iso-lines a little bent." if bent else "."))
        if near
        else "Does not hold as stated.",
        finding=f"The product alone explains {percent(law.product)} of the deviance of emergence, both logarithms "
        f"with a weight each {percent(law.both)}, repetition alone {percent(law.repeat)}, sparsity alone "
        f"{percent(law.sparsity)}. In the fit on both, sparsity enters with {law.exponent:.2f} times the exponent of "
        "repetition. The law by the product passes one half at repeat_frac * sparsity coefficient = "
        f"{law.threshold:.2g}. With the square of log(repeat_frac / sparsity) beside the product "
        f"{percent(law.curved)} are explained. The transition is sharp: in {len(cells(result)) - partial} of "
        f"{len(cells(result))} cells all {result.spec.seeds} seeds agree.",
        table=markdown_table(
            ["regressors", "deviance explained"],
            [
                ["log product", f"{law.product:.3f}"],
                ["log repeat_frac, log sparsity", f"{law.both:.3f}"],
                ["log product, log(repeat_frac / sparsity) squared", f"{law.curved:.3f}"],
                ["log repeat_frac", f"{law.repeat:.3f}"],
                ["log sparsity", f"{law.sparsity:.3f}"],
            ],
        ),
        caveat="Binomial regressions, a hundredth of a seed added to both counts of each cell. One point with three "
        "ones, density 0.1; how the threshold moves with the number of ones is below.",
        figures={
            "emergence.png": Drawn(
                emergence_map(
                    m,
                    penalties,
                    repeats,
                    "sparsity coefficient",
                    "repeat_frac: share of rows that are p",
                    law.threshold,
                ),
                "Map of memorization over sparsity and repetition, with the half-way contour and a line of constant "
                "product",
            )
        },
    )
