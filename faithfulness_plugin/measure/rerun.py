"""Measuring finished transcoders again, from what stands in a result, and saying whether the numbers agree."""

from collections.abc import Callable, Iterator
from math import isfinite, isinf
from pathlib import Path
from typing import Any

from faithfulness_plugin.measure.run import Measurement, read_artifacts
from faithfulness_plugin.measure.schema import ArtifactResult
from faithfulness_plugin.results.agreement import TOLERANCE, Agreement, notes
from faithfulness_plugin.results.experiment import Running


def rerun(
    result: ArtifactResult,
    *,
    tolerance: float = TOLERANCE,
    note: Callable[[str], None] = lambda _: None,
    on_measured: Callable[[str], None] = lambda _: None,
) -> Agreement:
    """Measure all again, and compare every number, relative to its size.

    Raises:
        UsageError: a transcoder does not exist, or is not what it was.
    """
    measurement = Measurement(read_artifacts(result.config))
    measurement.found(result, result.config)
    fresh, now = measurement.fresh(result.config), result
    for grown, line in measurement.run(fresh, Running(Path(), note=note)):  # which is not written
        now = grown
        if line:
            on_measured(line)
    disagree, largest = list[str](), 0.0
    for then in result.measured:
        again = now.of(then.name, then.role)
        assert again is not None  # of the same config
        sizes = dict(_changes(then.model_dump(), again.model_dump()))
        place = max(sizes, key=lambda p: sizes[p])
        largest = max(largest, *(size for size in sizes.values() if isfinite(size)))
        if isinf(sizes[place]):
            disagree.append(f"{then.name}, {then.role}: {place} is not what it was, or no number any more")
        elif sizes[place] > tolerance:
            disagree.append(f"{then.name}, {then.role}: {place} differs by {sizes[place]:.3g} of its size")
    return Agreement(
        what="measurements",
        n=len(result.measured),
        disagree=disagree,
        largest=largest,
        notes=notes(result.environment, fresh.environment),
    )


def _changes(then: Any, now: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Every number's place, and how far it is from what it was; infinitely for what is no number and changed."""
    if isinstance(then, dict) and isinstance(now, dict) and then.keys() == now.keys():
        for key in then:
            yield from _changes(then[key], now[key], f"{place}.{key}".lstrip("."))
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for i, (one, other) in enumerate(zip(then, now, strict=True)):
            yield from _changes(one, other, f"{place}[{i}]")
    elif isinstance(then, int | float) and isinstance(now, int | float):
        yield place, abs(then - now) / max(abs(then), abs(now), 1e-30) if then != now else 0.0
    else:
        yield place, 0.0 if then == now else float("inf")
