"""What the measurements of this package share: how one runs, spreads over rounds, the cost of a fresh process.

The loop that runs arms in turn is `faithfulness_plugin.results.timing.in_turn`, which `faithfulness train` uses too.
"""

import atexit
import runpy
import subprocess
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from typing_extensions import override

from faithfulness_plugin.results.experiment import T_CONFIG, T_RESULT, Experiment, Running
from faithfulness_plugin.results.schema import Environment, Record, Result, processor
from faithfulness_plugin.results.timing import peak_memory, seconds, torch_threads

MIB = 2**20


Note = Callable[[str], None]


class MeasurementResult(Result):
    """A result with the fields `config` and `processor`: times of another processor do not belong to it."""

    @property
    @override
    def settings(self) -> dict[str, Any]:
        of = self.model_dump(mode="json", include={"config", "processor"})
        return {**of["config"], "processor": of["processor"], "device": self.environment.device}


class Part(NamedTuple):
    """A part of a measurement, after which the result is written."""

    label: str
    field: str
    """What it measures: a field of the result, None until then; or a list, to which it adds a value."""
    measure: Callable[[Note], Any]


class Measurement(Experiment[T_CONFIG, T_RESULT]):
    """An experiment whose parts run one after the other, with the number of threads that its config says."""

    parts = "parts"
    result_class: ClassVar[type[Any]]

    @abstractmethod
    def plan(self, config: T_CONFIG) -> list[Part]:
        """List all parts in their order.

        Args:
            config: the settings that decide the numbers.

        Returns:
            The parts.
        """

    def environment(self, config: T_CONFIG) -> Environment:
        """Describe what the numbers are made with.

        Args:
            config: the settings that decide the numbers.

        Returns:
            The description; by default of the CPU.
        """
        return Environment.here()

    @override
    def fresh(self, config: T_CONFIG) -> T_RESULT:
        environment = self.environment(config)
        return self.result_class(complete=False, environment=environment, processor=processor(), config=config)

    @override
    def progress(self, result: Any) -> tuple[int, int]:
        plan = self.plan(result.config)
        values = [getattr(result, field) for field in {part.field for part in plan}]
        return sum(len(value) if isinstance(value, list) else value is not None for value in values), len(plan)

    @override
    def run(self, result: Any, running: Running) -> Iterator[tuple[T_RESULT, str]]:
        done, total = self.progress(result)
        for n, part in enumerate(self.plan(result.config)[done:], start=done + 1):
            with torch_threads(result.config.threads):
                value = part.measure(lambda text, label=part.label: running.note(f"{label}: {text}"))
            before = getattr(result, part.field)
            values = [*before, value] if isinstance(before, list) else value
            result = result.model_copy(update={part.field: values, "complete": n == total})
            yield result, part.label


class Quartiles(Record):
    """The median over rounds, with quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Quartiles":
        """Compute median and quartiles.

        Args:
            values: one a round.

        Returns:
            The three numbers.
        """
        low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
        return cls(median=median, low=low, high=high)

    def text(self, digits: int) -> str:
        """Format median (lower to upper quartile).

        Args:
            digits: digits after the point.

        Returns:
            The text.
        """
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f} to {self.high:,.{digits}f})"


def paired(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Compute the ratios of two arms by round; an arm that ran in fewer rounds is paired with the first ones.

    Args:
        numerators: one arm's values.
        denominators: the other arm's values.

    Returns:
        The ratios.
    """
    return [a / b for a, b in zip(numerators, denominators, strict=False)]


def ratio_range(numerators: Sequence[float], denominators: Sequence[float], digits: int) -> str:
    """Format the median of the paired ratios (least to largest).

    Args:
        numerators: one arm's values.
        denominators: the other arm's values.
        digits: digits after the point.

    Returns:
        The text.
    """
    ratios = paired(numerators, denominators)
    return Quartiles(median=float(np.median(ratios)), low=min(ratios), high=max(ratios)).text(digits)


class ProcessCost(NamedTuple):
    """What a process took from its start to its end."""

    seconds: float
    mebibytes: float
    """At the peak: its resident memory, or what torch had allocated on a CUDA device where it used one."""


def fresh_process(module: str, *arguments: str) -> ProcessCost:
    """Run `python -m module arguments` and measure it.

    Args:
        module: what to run.
        arguments: its command line.

    Returns:
        Seconds, and peak memory.

    Raises:
        RuntimeError: the process failed; the message is the last line of what it wrote to stderr.
    """
    command = [sys.executable, "-W", "ignore", "-m", __name__, module, *arguments]
    outcome: list[subprocess.CompletedProcess[str]] = []
    took = seconds(lambda: outcome.append(subprocess.run(command, capture_output=True, text=True)))
    (done,) = outcome
    if done.returncode:
        raise RuntimeError(next(iter(done.stderr.strip().splitlines()[-1:]), f"exit code {done.returncode}"))
    return ProcessCost(took, float(done.stdout.splitlines()[-1]) / MIB)


def _print_peak() -> None:
    print(torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else peak_memory())


if __name__ == "__main__":
    atexit.register(_print_peak)
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
