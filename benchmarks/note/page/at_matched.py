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
    """Read a metric where `by` is the target, over the seeds whose curves pass it.

    Along a seed's curve, in the order of the penalty, the metric is interpolated between the two runs on either side of
    the target, linearly, or its logarithm (the mean is then geometric, and the interval one of logarithms). Where a
    curve passes the target several times, the passage with the lowest FVU counts, the one that a user would choose.

    Args:
        result: a scan over `sparsity_coefficient`.
        arm: the arm's name.
        read: reads the metric off a transcoder.
        target: the value of `by` at which arms are compared.
        by: reads off what is matched.
        log: whether the metric's logarithm is interpolated and averaged.

    Returns:
        Mean and 95 % interval over the seeds that pass the target, or None where fewer than two do.
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
    """Read a metric where one seed's curve passes the target.

    Args:
        curve: transcoders of one seed, in the order of the penalty.
        read: reads the metric off a transcoder.
        target: the value of `by` to pass.
        by: reads off what is matched.
        log: whether the metric's logarithm is interpolated.

    Returns:
        The metric there, or None where the curve does not pass the target.
    """
    place = crossing([by(t) for t in curve], target, [METRICS["FVU"](t) for t in curve])
    return None if place is None else place.read([read(t) for t in curve], log=log)


def _geometric(values: Sequence[float]) -> Interval:
    of_logs = interval([float(np.log(value)) for value in values])
    bounds = {name: float(np.exp(getattr(of_logs, name))) for name in ("mean", "low", "high")}
    seen = None if of_logs.seen is None else (float(np.exp(of_logs.seen[0])), float(np.exp(of_logs.seen[1])))
    return Interval(**bounds, n=of_logs.n, seen=seen)
