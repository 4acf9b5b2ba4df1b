"""What the term costs within the trainers of other libraries, beside those alone."""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.benchmarks.compatibility import DISTRIBUTIONS
from faithfulness_plugin.benchmarks.timing.configs import OverheadConfig
from faithfulness_plugin.benchmarks.timing.harness import (
    Measurement,
    MeasurementResult,
    Note,
    Part,
    ratio_range,
)
from faithfulness_plugin.results.markdown import markdown_table
from faithfulness_plugin.results.schema import Environment, Record
from faithfulness_plugin.results.timing import in_turn

COEFFICIENT = 0.5
TOKENS = 128
"""The length of a prompt."""
BLOCK = 10
"""The block of the examples' model whose MLP is replaced."""
ALONE = "alone"
TERMS: dict[str, dict[str, Any]] = {
    "jvp, difference": {"probe": "difference"},
    "secant, pair": {"estimator": "secant", "probe": "pair"},
}


class Timings(Record):
    """Seconds a step, round by round."""

    alone: list[float] = Field(description="the library's trainer")
    matched: dict[str, list[float]] = Field(description="the trainer with the term, by estimator and probe")


class OverheadResult(MeasurementResult):
    """What a step takes."""

    schema_version: Literal[1] = 1
    config: OverheadConfig
    processor: str
    step: Timings | None = Field(
        default=None, description="almost no model: rows made beforehand, or a model of one block"
    )
    loop: Timings | None = Field(
        default=None, description="the whole loop, with the run of the examples' model, as users train"
    )


class AdapterOverhead(Measurement[OverheadConfig, OverheadResult]):
    """Two parts: the whole loop, and the step alone."""

    config_class, result_class = OverheadConfig, OverheadResult

    @override
    def environment(self, config: OverheadConfig) -> Environment:
        return Environment.here(packages=DISTRIBUTIONS[config.library])

    @override
    def plan(self, config: OverheadConfig) -> list[Part]:
        return [
            Part("whole loop", "loop", partial(_time_terms, "loop", config)),
            Part("step alone", "step", partial(_time_terms, "step", config)),
        ]

    @override
    def tables(self, result: OverheadResult) -> str:
        return table([result])


Train = Callable[[dict[str, Any] | None], float]
"""Seconds a step of a trainer that matches with these options, or, with None, not at all."""


def _time_terms(what: Literal["step", "loop"], config: OverheadConfig, note: Note) -> Timings:
    """Train with the library alone and with each term, in turn, in all rounds after one that does not count.

    Raises:
        ImportError: the library is missing; the message says what to install.
    """
    import_module(f"faithfulness_plugin.adapters.{config.library}")
    library = import_module(f"faithfulness_plugin.benchmarks.timing.{config.library}")
    train: Train = getattr(library, what)(config)
    arms = {name: partial(train, options) for name, options in {ALONE: None, **TERMS}.items()}
    measured = in_turn(arms, config.rounds, note=note)
    return Timings(alone=measured[ALONE], matched={name: measured[name] for name in TERMS})


def table(results: Sequence[OverheadResult]) -> str:
    """Format a row a library and term: medians over rounds, with the least and the largest of the paired ratios.

    Args:
        results: one a library.

    Returns:
        Markdown.
    """
    rows = []
    for result in results:
        measured = [timings for timings in (result.step, result.loop) if timings is not None]
        library = result.config.library
        rows.append([library, ALONE, *(cell for t in measured for cell in (_milliseconds(t.alone), "1"))])
        for name in measured[0].matched:
            pairs = [(t.matched[name], t.alone) for t in measured]
            cells = (cell for pair in pairs for cell in (_milliseconds(pair[0]), ratio_range(*pair, 2)))
            rows.append([library, name, *cells])
    c = results[0].config
    where = (
        f"TopK k {c.k} of {c.d_sae} features, {c.rows} rows a step, a SwiGLU layer of {c.d} x {c.d_mlp}; {c.rounds} "
        f"rounds of {c.n_steps} steps in turns, {c.threads} threads ({results[0].processor}). The step alone is on "
        "rows in memory (for sparsify, which always runs a model: on one of a single block); the whole loop has the "
        "run of the examples' model in it, as users train."
    )
    header = ["library", "term", "step alone, ms", "beside the library", "whole loop, ms", "beside the library"]
    return where + "\n\n" + markdown_table(header, rows)


def _milliseconds(taken: Sequence[float]) -> str:
    return f"{1e3 * statistics.median(taken):.0f}"
