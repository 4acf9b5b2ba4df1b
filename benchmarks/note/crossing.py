"""Where a curve of runs passes a value, and their other numbers there."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST = 1e-12  # smaller numbers are replaced by it before their logarithm is taken


@dataclass(frozen=True)
class Crossing:
    """A place on a curve: a share of the way from run `before` to the next."""

    before: int
    share: float

    def read(self, values: Sequence[int | float], *, log: bool = False) -> float:
        """Interpolate another number of the same runs, or its logarithm, linearly.

        Args:
            values: the number of each run along the curve.
            log: whether its logarithm is interpolated.

        Returns:
            The number at this place.
        """
        y = np.asarray(values[self.before : self.before + 2], dtype=float)
        y = np.log(np.maximum(y, LEAST)) if log else y
        value = y[0] + self.share * (y[1] - y[0])
        return float(np.exp(value) if log else value)


def crossing(x: Sequence[int | float], target: float, fvu: Sequence[float]) -> Crossing | None:
    """Find where x passes the target along the curve.

    Args:
        x: a number of each run, in the order of the curve.
        target: the value to pass, from either side.
        fvu: FVU of each run.

    Returns:
        The place, or None where there is none. Of several places the one with the lowest FVU is returned, which a user
        would choose.
    """
    gap = np.asarray(x, dtype=float) - target
    places = [
        Crossing(int(i), float(gap[i] / (gap[i] - gap[i + 1]))) for i in np.flatnonzero((gap[:-1] < 0) != (gap[1:] < 0))
    ]
    return min(places, key=lambda place: place.read(fvu, log=True), default=None)
