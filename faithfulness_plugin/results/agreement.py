"""Run parts of a result again, and say whether the numbers agree."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any, Generic

from faithfulness_plugin.differences import differences
from faithfulness_plugin.results.experiment import T_RESULT, Experiment, Running
from faithfulness_plugin.results.schema import Environment


@dataclass(frozen=True)
class Agreement:
    """How a result and its rerun compare."""

    n: int
    """Parts that were run again."""
    disagree: list[str]
    """A line for each part that does not agree."""
    largest: float
    """The largest difference of two numbers."""
    notes: list[str]
    """What is different about this machine, and what failed."""


@dataclass
class Rerun(Generic[T_RESULT]):
    """Parts of a result that are to be run again."""

    experiment: Experiment[Any, T_RESULT]
    result: T_RESULT
    partial: T_RESULT
    """The result without these parts, as if it had been interrupted."""
    numbers: Callable[[T_RESULT], Mapping[str, Any]]
    """Maps a result to {part: its numbers, in dicts and lists}."""
    relative: bool = False
    """Whether a difference is divided by the larger of the two numbers."""

    def run(self, n_jobs: int, note: Callable[[str], None] = lambda _: None) -> Iterator[tuple[T_RESULT, str]]:
        """Run these parts in a folder that is removed afterwards.

        Args:
            n_jobs: parts that run at a time.
            note: receives a line about what is being done.

        Yields:
            The result so far and a line about the part, after each part.
        """
        with tempfile.TemporaryDirectory() as folder:
            yield from self.experiment.run(self.partial, Running(Path(folder), n_jobs, note=note))

    def agreement(self, now: T_RESULT, tolerance: float = 1e-6) -> Agreement:
        """Compare every number of these parts with those that `run` gave.

        Args:
            now: the last result that `run` yielded.
            tolerance: the largest difference that counts as agreement.

        Returns:
            Which parts disagree, the largest difference, and what may explain it.
        """
        kept, again = self.numbers(self.partial), self.numbers(now)
        before = {part: then for part, then in self.numbers(self.result).items() if part not in kept}
        disagree, largest = list[str](), 0.0
        for part, then in before.items():
            leaves = [(self._size(*values), place, *values) for place, *values in _leaves(then, again[part])]
            largest = max(largest, *(size for size, *_ in leaves if isfinite(size)), 0.0)
            size, place, was, found = max(leaves, key=lambda leaf: leaf[0])
            if size > tolerance:
                disagree.append(f"{part}: " + f"{place} {_shown(was)} before, {_shown(found)} now".lstrip())
        return Agreement(len(before), disagree, largest, _changes(self.result.environment))

    def _size(self, then: Any, now: Any) -> float:
        """Return how far a number is from what it was; infinity for anything else that changed."""
        if then == now:
            return 0.0
        if not isinstance(then, int | float) or not isinstance(now, int | float):
            return inf
        return abs(then - now) / (max(abs(then), abs(now)) if self.relative else 1.0)


def _leaves(then: Any, now: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (place, then, now) of every value that is no dict or list, or whose shape changed."""
    if isinstance(then, dict) and isinstance(now, dict) and then.keys() == now.keys():
        for key in then:
            yield from _leaves(then[key], now[key], f"{place}.{key}".lstrip("."))
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for i, (one, other) in enumerate(zip(then, now, strict=True)):
            yield from _leaves(one, other, f"{place}[{i}]")
    else:
        yield place, then, now


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "numbers"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _changes(there: Environment) -> list[str]:
    """List what differs between the environments and may explain different numbers."""
    here, notes = Environment.here(there.device, packages=tuple(there.packages)), []
    if changed := differences(there.packages, here.packages):
        notes.append(f"other versions of packages ({changed})")
    if there.machine != here.machine:
        notes.append(f"another kind of processor ({there.machine}, here {here.machine})")
    return notes
