"""Metrics at matched sparsity: read off each seed's own curve, where it passes a given L0."""

from collections.abc import Sequence

import numpy as np

from faithfulness_plugin.benchmarks.note.crossing import crossing
from faithfulness_plugin.benchmarks.note.scan.report import METRICS, Read
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult, Trained
from faithfulness_plugin.results.intervals import interval
from faithfulness_plugin.results.schema import Interval


def at_matched(
    result: ScanResult, arm: str, read: Read, target: float, by: Read = METRICS["effective L0"], log: bool = False
) -> Interval | None:
    """Return the metric where `by` is the target: mean and 95 % interval over the seeds that pass it, or None where
    fewer than two do.

    Along a seed's curve, in the order of the penalty, the metric is interpolated between the two runs on either side of
    the target, linearly, or its logarithm (the mean is then geometric, and the interval one of logarithms). Where a
    curve passes the target several times, the passage with the lowest FVU counts, the one that a user would choose.
    """
    curves: dict[int, list[Trained]] = {}
    for trained in sorted(result.of(arm), key=lambda t: float(t.values["sparsity_coefficient"] or 0)):
        curves.setdefault(trained.seed, []).append(trained)
    passed = [passage(curves[seed], read, target, by, log) for seed in sorted(curves)]
    values = [value for value in passed if value is not None]
    if len(values) < 2:
        return None
    return _geometric(values) if log else interval(values)


def passage(curve: Sequence[Trained], read: Read, target: float, by: Read, log: bool = False) -> float | None:
    """Return one curve's value where `by` passes the target, or None where it does not."""
    place = crossing([by(t) for t in curve], target, [METRICS["FVU"](t) for t in curve])
    return None if place is None else place.read([read(t) for t in curve], log=log)


def _geometric(values: Sequence[float]) -> Interval:
    of_logs = interval([float(np.log(value)) for value in values])
    bounds = {name: float(np.exp(getattr(of_logs, name))) for name in ("mean", "low", "high")}
    seen = None if of_logs.seen is None else (float(np.exp(of_logs.seen[0])), float(np.exp(of_logs.seen[1])))
    return Interval(**bounds, n=of_logs.n, seen=seen)
