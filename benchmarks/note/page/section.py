"""What each section of the results page is made of, and its prose: a Markdown template with generated numbers.

A section's file in `sections/` holds a title, a claim, what would refute it, a verdict, a finding, the figures with
their alternative texts, and a caveat. It is filled with the facts that the section's module reads off the result file:
numbers, and the conditions under which a sentence is true.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from faithfulness_plugin.benchmarks.note.scan.report import Read, over_seeds
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult, Trained
from faithfulness_plugin.benchmarks.note.scan.spec import Value
from faithfulness_plugin.extras import require_extra
from faithfulness_plugin.results.curves import Curve
from faithfulness_plugin.results.schema import Interval

require_extra("bench", "jinja2")
from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: E402

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "sections", encoding="utf-8"),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
)
"""Names that a template uses and a section does not state are errors."""


@dataclass(frozen=True)
class Section:
    """One experiment on the page. Every number in it was read off its result file."""

    name: str
    """The preset's name, and the template's."""
    facts: Mapping[str, Any]
    """What the template's sentences say, and on what they depend."""
    table: str
    """Markdown."""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    """By file name."""

    def text(self, block: str) -> str:
        """Return the text of one of the template's blocks; lines that are wrapped there are joined."""
        template = TEMPLATES.get_template(f"{self.name}.md")
        return " ".join("".join(template.blocks[block](template.new_context(dict(self.facts)))).split())


ARMS = (
    ("repetition", "no term"),
    ("Jacobian", "beside it (jitter)"),
    ("secant", "across it (secant)"),
    ("baseline", "secant, differences", "Jacobian at the kink", "at the kink"),
    ("noise augmentation",),
    ("interpolation augmentation", "the layer"),
)
"""Arms of one group share a style in all figures."""


def grid(result: ScanResult, name: str) -> list[float]:
    """Return the values over which a scan varies a setting."""
    return [float(value or 0) for value in result.spec.grid[name]]


def mean(trained: Sequence[Trained], read: Read) -> float:
    """Return a number's mean over transcoders."""
    return float(np.mean([read(t) for t in trained]))


def curve_over(result: ScanResult, arm: str, along: str, read: Read, **fixed: Value) -> Curve:
    """Return a metric along one of the grid's settings, mean and 95 % interval over seeds at each."""
    values = grid(result, along)
    return band(values, [over_seeds(result.of(arm, **{along: value}, **fixed), read) for value in values])


def band(x: Sequence[int | float], intervals: Sequence[Interval]) -> Curve:
    """Return a curve with its intervals as the band, or the range of a few seeds."""
    low, high = ([i.drawn[end] for i in intervals] for end in (0, 1))
    return Curve(x, [i.mean for i in intervals], low, high)


def fixed(value: float, digits: int) -> str:
    """Return a number with that many digits after the point."""
    return f"{value:.{digits}f}"


def short(value: float, digits: int = 6) -> str:
    """Return a number with that many significant digits, without zeros at its end."""
    return f"{value:.{digits}g}"


def percent(value: float) -> str:
    """Return a share as people read it."""
    return f"{100 * value:.0f} %"


def joined(words: Iterable[str]) -> str:
    """Return "a, b and c"."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def by_arm(values: Mapping[str, float], digits: int) -> str:
    """Return "1.0 (one arm), 2.0 (another)"."""
    return ", ".join(f"{value:.{digits}f} ({arm})" for arm, value in values.items())


TEMPLATES.filters |= {f.__name__: f for f in (fixed, short, percent, joined, by_arm)}
