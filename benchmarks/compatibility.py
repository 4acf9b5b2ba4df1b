"""Record which versions of other libraries `make test-adapters` used, and what worked with them."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.results.markdown import markdown_table
from faithfulness_plugin.results.schema import Result

DISTRIBUTIONS = {
    "sparsify": ("eai-sparsify", "transformers"),
    "dictionary_learning": ("dictionary_learning", "nnsight", "transformers"),
    "circuit_tracer": ("circuit-tracer", "transformers"),
    "transformer_lens_4": ("transformer-lens", "transformers"),
}
"""By library: the packages whose versions count, its own first."""


class CompatibilityResult(Result):
    """One library."""

    schema_version: Literal[1] = 1
    library: str
    works: list[str] = Field(description="what tests have shown")
    n_tests: int = Field(description="tests that passed, none skipped")

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {"library": self.library}


def table(results: Sequence[CompatibilityResult]) -> str:
    """Format a row a library.

    Args:
        results: one a library.

    Returns:
        A Markdown table.
    """
    rows = []
    for result in results:
        packages = result.environment.packages
        own, *others = (f"{name} {packages[name]}" for name in DISTRIBUTIONS[result.library])
        beside = ", ".join([f"torch {packages['torch']}", *others])
        rows.append([own, beside, "; ".join(result.works), f"{result.n_tests}"])
    return markdown_table(["library", "with", "works", "tests"], rows)
