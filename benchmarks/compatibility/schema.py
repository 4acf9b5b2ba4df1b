"""What `make test-adapters` writes for each library."""

from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.results.schema import Result

DISTRIBUTIONS = {
    "sparsify": ("eai-sparsify", "transformers"),
    "dictionary_learning": ("dictionary_learning", "nnsight", "transformers"),
    "circuit_tracer": ("circuit-tracer", "transformers"),
}
"""By library: the packages whose versions count, its own first."""


class CompatibilityResult(Result):
    """One library."""

    schema_version: Literal[1] = 1
    library: str
    works: list[str] = Field(description="what tests have shown")
    n_tests: int = Field(description="that passed, none skipped")

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {"library": self.library}
