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
        """Fill in one of the template's blocks with the facts.

        Args:
            block: the block's name, as "claim".

        Returns:
            The text on one line.
        """
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
    """Read the values over which a scan varies a setting.

    Args:
        result: the scan's.
        name: a setting of numbers in its grid.

    Returns:
        The values, in the grid's order.
    """
    return [float(value or 0) for value in result.spec.grid[name]]


def mean(trained: Sequence[Trained], read: Read) -> float:
    """Average a number over transcoders.

    Args:
        trained: the transcoders, at least one.
        read: reads the number off one of them.

    Returns:
        The mean.
    """
    return float(np.mean([read(t) for t in trained]))


def curve_over(result: ScanResult, arm: str, along: str, read: Read, **fixed: Value) -> Curve:
    """Draw a metric along one of the grid's settings.

    Args:
        result: the scan's.
        arm: the arm's name.
        along: the setting on the x axis.
        read: reads the metric off a transcoder.
        **fixed: values of the grid's other settings.

    Returns:
        The mean over seeds at each value, with the 95 % interval as the band, or the range of a few seeds.
    """
    values = grid(result, along)
    return band(values, [over_seeds(result.of(arm, **{along: value}, **fixed), read) for value in values])


def band(x: Sequence[int | float], intervals: Sequence[Interval]) -> Curve:
    """Draw a curve with its intervals as the band, or the range of a few seeds.

    Args:
        x: where the intervals stand.
        intervals: one for each x.

    Returns:
        The curve of the means.
    """
    low, high = ([i.drawn[end] for i in intervals] for end in (0, 1))
    return Curve(x, [i.mean for i in intervals], low, high)


def fixed(value: float, digits: int) -> str:
    """Format a number with that many digits after the point.

    Args:
        value: the number.
        digits: how many digits.

    Returns:
        Its text, as "0.500".
    """
    return f"{value:.{digits}f}"


def short(value: float, digits: int = 6) -> str:
    """Format a number with that many significant digits, without zeros at its end.

    Args:
        value: the number.
        digits: how many digits, at most.

    Returns:
        Its text, as "0.5".
    """
    return f"{value:.{digits}g}"


def percent(value: float) -> str:
    """Format a share as people read it.

    Args:
        value: the share, 1 for all.

    Returns:
        Its text, as "50 %".
    """
    return f"{100 * value:.0f} %"


def joined(words: Iterable[str]) -> str:
    """Join words as a sentence lists them.

    Args:
        words: one or more.

    Returns:
        "a, b and c".
    """
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def by_arm(values: Mapping[str, float], digits: int) -> str:
    """Join numbers, each with its arm.

    Args:
        values: a number for each arm.
        digits: how many digits after the point.

    Returns:
        "1.0 (one arm), 2.0 (another)".
    """
    return ", ".join(f"{value:.{digits}f} ({arm})" for arm, value in values.items())


TEMPLATES.filters |= {f.__name__: f for f in (fixed, short, percent, joined, by_arm)}
