"""Where a curve of runs passes a value, and what others of their numbers are there."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST = 1e-12  # logarithms of numbers below are those of this one


@dataclass(frozen=True)
class Crossing:
    """Between run `before` of a curve and the next, that share of the way."""

    before: int
    share: float

    def read(self, values: Sequence[float], *, log: bool = False) -> float:
        """Another number of the same runs there, interpolated linearly, or its logarithm."""
        y = np.asarray(values[self.before : self.before + 2], dtype=float)
        y = np.log(np.maximum(y, LEAST)) if log else y
        value = y[0] + self.share * (y[1] - y[0])
        return float(np.exp(value) if log else value)


def crossing(x: Sequence[float], target: float, fvu: Sequence[float]) -> Crossing | None:
    """Where x passes the target along the curve; of several such places the one with the lowest FVU, which a user would
    choose. None where it does not."""
    gap = np.asarray(x, dtype=float) - target
    places = [
        Crossing(int(i), float(gap[i] / (gap[i] - gap[i + 1]))) for i in np.flatnonzero((gap[:-1] < 0) != (gap[1:] < 0))
    ]
    return min(places, key=lambda place: place.read(fvu, log=True), default=None)
