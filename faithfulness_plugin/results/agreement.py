"""Run parts of a result again, and say whether the numbers agree."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any

from faithfulness_plugin.differences import differences
from faithfulness_plugin.results.experiment import T_RESULT, Experiment, Running
from faithfulness_plugin.results.schema import Environment

TOLERANCE = 1e-6


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


def rerun(
    experiment: Experiment[Any, T_RESULT],
    result: T_RESULT,
    partial: T_RESULT,
    numbers: Callable[[T_RESULT], Mapping[str, Any]],
    *,
    tolerance: float = TOLERANCE,
    relative: bool = False,
    n_jobs: int = 1,
    note: Callable[[str], None] = lambda _: None,
    on_part: Callable[[T_RESULT, str], None] = lambda *_: None,
) -> Agreement:
    """Run what a partial copy of a result lacks, in a folder that is removed, and compare every number.

    Args:
        partial: the result without the parts that are to be run again.
        numbers: maps a result to {part: its numbers, in dicts and lists}.
        tolerance: the largest difference that counts as agreement.
        relative: whether a difference is divided by the larger of the two numbers.
        on_part: receives the result so far and a line, after each part.
    """
    now = partial
    with tempfile.TemporaryDirectory() as folder:
        running = Running(Path(folder), n_jobs, note=note)
        for now, line in experiment.run(partial, running):
            on_part(now, line)
    kept = numbers(partial)
    before = {part: then for part, then in numbers(result).items() if part not in kept}
    found = agreement(before, numbers(now), result.environment, tolerance=tolerance, relative=relative)
    return replace(found, notes=[*found.notes, *running.failures])


def agreement(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    environment: Environment,
    *,
    tolerance: float = TOLERANCE,
    relative: bool = False,
) -> Agreement:
    """Compare the numbers of parts with those that a rerun gave, as `rerun` does.

    Args:
        environment: what the numbers before were made with.
    """
    disagree, largest = list[str](), 0.0
    for part, then in before.items():
        leaves = [(_size(*values, relative), place, *values) for place, *values in _leaves(then, now[part])]
        largest = max(largest, *(size for size, *_ in leaves if isfinite(size)), 0.0)
        size, place, was, found = max(leaves, key=lambda leaf: leaf[0])
        if size > tolerance:
            disagree.append(f"{part}: " + f"{place} {_shown(was)} before, {_shown(found)} now".lstrip())
    return Agreement(len(before), disagree, largest, _notes(environment))


def _leaves(then: Any, now: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (place, then, now) of everything that is no dict or list, or whose shape changed."""
    if isinstance(then, dict) and isinstance(now, dict) and then.keys() == now.keys():
        for key in then:
            yield from _leaves(then[key], now[key], f"{place}.{key}".lstrip("."))
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for i, (one, other) in enumerate(zip(then, now, strict=True)):
            yield from _leaves(one, other, f"{place}[{i}]")
    else:
        yield place, then, now


def _size(then: Any, now: Any, relative: bool) -> float:
    """Return how far a number is from what it was; infinity for anything else that changed."""
    if then == now:
        return 0.0
    if not isinstance(then, int | float) or not isinstance(now, int | float):
        return inf
    return abs(then - now) / (max(abs(then), abs(now)) if relative else 1.0)


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "numbers"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _notes(there: Environment) -> list[str]:
    """Return what may be why numbers differ."""
    here, notes = Environment.here(there.device, packages=tuple(there.packages)), []
    if changed := differences(there.packages, here.packages):
        notes.append(f"other versions of packages ({changed})")
    if there.machine != here.machine:
        notes.append(f"another kind of processor ({there.machine}, here {here.machine})")
    return notes
