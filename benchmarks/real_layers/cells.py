"""Cells of tables."""

from collections.abc import Sequence

import numpy as np

from faithfulness_plugin.results.schema import Interval


def percent(of: Interval | None) -> str:
    """Write a relative change with its interval.

    Args:
        of: the change; None where it is undefined.

    Returns:
        Percent, or a dash.
    """
    if of is None:
        return "—"
    ends = "" if of.low is None or of.high is None else f" [{100 * of.low:+.1f}, {100 * of.high:+.1f}]"
    return f"{100 * of.mean:+.1f} %{ends}"


def mean_text(values: Sequence[float | None], digits: int = 3) -> str:
    """Write the mean of the values that exist.

    Args:
        values: one a run; None where it is undefined.
        digits: after the point.

    Returns:
        The mean, or a dash.
    """
    numbers = [v for v in values if v is not None]
    return f"{np.mean(numbers):.{digits}f}" if numbers else "-"
