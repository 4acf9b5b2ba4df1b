"""The measurement: the library's own trainer, alone and with the term, in turns in one process."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from faithfulness_plugin.benchmarks.timing.adapter_overhead import dictionary_learning, sparsify
from faithfulness_plugin.benchmarks.timing.adapter_overhead.schema import OverheadConfig, OverheadResult, Timings
from faithfulness_plugin.results.result_file import RESULT_FILENAME, begin_or_go_on
from faithfulness_plugin.results.schema import Environment, processor, write_text
from faithfulness_plugin.results.threads import torch_threads

ARMS: dict[str, dict[str, Any] | None] = {
    "alone": None,
    "jvp, difference": {"probe": "difference"},
    "secant, pair": {"estimator": "secant", "probe": "pair"},
}

Run = Callable[[dict[str, Any] | None], float]
"""Seconds a step of a trainer that matches with these options, or not."""


def open_result(out: Path, config: OverheadConfig, packages: tuple[str, ...], *, overwrite: bool) -> OverheadResult:
    """The result in `out`, or a fresh one, not written yet. Raises ResultError as `begin_or_go_on`."""
    environment = Environment.here(packages=packages)
    fresh = OverheadResult(complete=False, environment=environment, processor=processor(), config=config)
    return begin_or_go_on(out, fresh, overwrite=overwrite, write=False)


def measure(result: OverheadResult, out: Path, note: Callable[[str], None]) -> OverheadResult:
    """All rounds, after one that does not count; written at the end. Raises ImportError without the library, OSError
    without the examples' model."""
    if result.complete:
        return result
    config = result.config
    import_module(f"faithfulness_plugin.adapters.{config.library}")  # says what to install where that is missing
    library = sparsify if config.library == "sparsify" else dictionary_learning
    with torch_threads(config.threads):
        loop = _rounds(library.loop(config), config.rounds, lambda text: note(f"whole loop, {text}"))
        step = _rounds(library.step(config), config.rounds, lambda text: note(f"step alone, {text}"))
    measured = result.model_copy(update={"complete": True, "step": step, "loop": loop})
    write_text(out / RESULT_FILENAME, measured.model_dump_json(indent=1) + "\n")
    return measured


def _rounds(run: Run, rounds: int, note: Callable[[str], None]) -> Timings:
    seconds: dict[str, list[float]] = {name: [] for name in ARMS}
    for number in range(rounds + 1):
        note(f"round {number} of {rounds}" if number else "warming up")
        for name, options in ARMS.items():
            took = run(options)
            if number:
                seconds[name].append(took)
    return Timings(alone=seconds.pop("alone"), matched=seconds)
