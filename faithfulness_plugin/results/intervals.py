"""Intervals over seeds."""

from collections.abc import Sequence

import numpy as np

from faithfulness_plugin.results.schema import Interval, Share

FEW = 5
"""For fewer values than this, tables show the least and the largest."""
RANGE = f"in brackets the range of fewer than {FEW} seeds"
"""Words for captions."""


def interval(values: Sequence[int | float]) -> Interval:
    """Compute mean +- t_{0.975, n-1} s / sqrt(n), Student's 95 % interval.

    Args:
        values: one a seed.

    Returns:
        The interval; without bounds for a single value, and with the range of fewer than 5 values.
    """
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Interval(mean=mean, low=None, high=None, n=n)
    from scipy import stats  # half a second

    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    seen = (float(min(values)), float(max(values))) if n < FEW else None
    return Interval(mean=mean, low=mean - half, high=mean + half, n=n, seen=seen)


def share(count: int, n: int) -> Share:
    """Compute count / n with Wilson's 95 % interval, which stays sensible at 0 and at n.

    Args:
        count: how many of them.
        n: of how many.

    Returns:
        The share and its interval.
    """
    from scipy import stats  # half a second

    ci = stats.binomtest(count, n).proportion_ci(0.95, method="wilson")
    return Share(count=count, n=n, low=float(ci.low), high=float(ci.high))


def prediction_interval(values: Sequence[int | float]) -> tuple[float, float]:
    """Compute where one more value of the same kind falls with 95 %: mean +- t_{0.975, n-1} s sqrt(1 + 1/n).

    Args:
        values: two or more.

    Returns:
        The lower and the upper bound.

    Raises:
        ValueError: fewer than two values.
    """
    n = len(values)
    if n < 2:
        raise ValueError("a prediction interval needs two values or more")
    from scipy import stats  # half a second

    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) * np.sqrt(1 + 1 / n))
    return float(np.mean(values)) - half, float(np.mean(values)) + half
