"""The table of compatibility."""

from collections.abc import Sequence

from faithfulness_plugin.benchmarks.compatibility.schema import DISTRIBUTIONS, CompatibilityResult
from faithfulness_plugin.results.markdown import markdown_table


def table(results: Sequence[CompatibilityResult]) -> str:
    """A row a library."""
    rows = []
    for result in results:
        own, *others = (f"{name} {result.environment.packages[name]}" for name in DISTRIBUTIONS[result.library])
        beside = [f"torch {result.environment.packages['torch']}", *others]
        rows.append([own, ", ".join(beside), "; ".join(result.works), f"{result.n_tests}"])
    return markdown_table(["library", "with", "works", "tests"], rows)
