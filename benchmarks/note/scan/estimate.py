"""How long a scan will take, from a few steps of it."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from faithfulness_plugin.benchmarks.note.scan.shard import cost, shards, train_shard
from faithfulness_plugin.benchmarks.note.scan.spec import Point, ScanSpec

SHORT, LONG = 10, 60


def seconds(spec: ScanSpec, points: Sequence[Point], shard_size: int, n_workers: int) -> float:
    """Estimate the wall-clock time for these points.

    The most expensive part is trained for a few steps, twice: the difference says what its arithmetic takes, the rest
    what setting up and measuring take.

    Args:
        spec: the scan.
        points: those that are to be trained, at least one.
        shard_size: members that one process trains at most.
        n_workers: processes, with a core each.

    Returns:
        Seconds.
    """
    parts = shards(spec, points, shard_size, n_workers)
    part = parts[0]
    _seconds(spec, 1, part[:1])  # what is made once
    short, long = (_seconds(spec, n, part) for n in (SHORT, LONG))
    step = max(0.0, long - short) / (LONG - SHORT)
    training = step * spec.settings(part[0]).n_steps * cost(spec, points) / cost(spec, part)
    return (training + len(parts) * max(0.0, short - SHORT * step)) / n_workers


def _seconds(spec: ScanSpec, n_steps: int, part: Sequence[Point]) -> float:
    """Time the same part with that many steps, wherever they are set."""
    short = spec.model_copy(
        update={
            "base": {**spec.base, "n_steps": n_steps},
            "arms": {arm: _without_steps(of) for arm, of in spec.arms.items()},
            "grid": _without_steps(spec.grid),
        }
    )
    points = [point.model_copy(update={"values": _without_steps(point.values)}) for point in part]
    start = time.perf_counter()
    train_shard(short, points, None)
    return time.perf_counter() - start


def _without_steps(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "n_steps"}
