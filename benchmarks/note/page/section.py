"""What every experiment tells on the results page."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure

from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult, Trained
from faithfulness_plugin.benchmarks.note.scan.spec import Value
from faithfulness_plugin.results.curves import Curve
from faithfulness_plugin.results.intervals import interval
from faithfulness_plugin.results.schema import Interval

Read = Callable[[Trained], float]


@dataclass(frozen=True)
class Drawn:
    """A figure and what it shows, for those who cannot see it."""

    figure: Figure
    alt: str


@dataclass(frozen=True)
class Section:
    """One experiment. Every number in it was read off its result file."""

    name: str
    title: str
    claim: str
    falsifier: str
    """What would have shown the claim to be wrong."""
    verdict: str
    """Whether that happened."""
    finding: str
    """Markdown."""
    table: str
    """Markdown."""
    caveat: str
    figures: Mapping[str, Drawn] = field(default_factory=dict)
    """By file name."""

    @property
    def command(self) -> str:
        """What remakes its result."""
        return f"faithfulness scan --preset {self.name}"


ARMS = (
    ("repetition", "no term"),
    ("Jacobian", "beside it (jitter)"),
    ("secant", "across it (secant)"),
    ("baseline", "secant, differences", "Jacobian at the kink", "at the kink"),
    ("noise augmentation",),
    ("interpolation augmentation", "the layer"),
)
"""Which arms share a style, in all figures."""

METRICS: dict[str, Read] = {
    "m / max": lambda t: t.metrics.m_fraction,
    "FVU": lambda t: t.metrics.fvu,
    "effective L0": lambda t: t.metrics.effective_l0,
    "plain L0": lambda t: t.metrics.l0,
    "Jacobian error": lambda t: t.metrics.jacobian_error,
    "circuits recovered": lambda t: float(t.metrics.recovered),
}


def over_seeds(trained: Sequence[Trained], read: Read) -> Interval:
    """Mean and 95 % interval."""
    return interval([read(t) for t in trained])


def curve_over(result: ScanResult, arm: str, along: str, read: Read, **fixed: Value) -> Curve:
    """A metric along one of the grid's settings, mean and 95 % interval over seeds at each."""
    values = result.spec.grid[along]
    return band(
        [float(value or 0) for value in values],
        [over_seeds(result.of(arm, **{along: value}, **fixed), read) for value in values],
    )


def band(x: Sequence[int | float], intervals: Sequence[Interval]) -> Curve:
    """A curve with its intervals as the band, or the range of a few seeds."""
    low, high = ([i.drawn[end] for i in intervals] for end in (0, 1))
    return Curve(x, [i.mean for i in intervals], low, high)


def percent(value: float) -> str:
    """As people read it."""
    return f"{100 * value:.0f} %"


def joined(words: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def mean(trained: Sequence[Trained], read: Read) -> float:
    """Over seeds."""
    return float(np.mean([read(t) for t in trained]))
