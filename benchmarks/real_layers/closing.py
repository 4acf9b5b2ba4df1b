"""What variations of an arm are worth: the change of its pair error, at which FVU and price."""

from typing import NamedTuple

from faithfulness_plugin.benchmarks.real_layers.analysis import Group, gain, groups
from faithfulness_plugin.benchmarks.real_layers.arms import Arm
from faithfulness_plugin.benchmarks.real_layers.cells import percent
from faithfulness_plugin.benchmarks.real_layers.prices import time_ratio
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.measure.relative_errors import fvu, jacobian_error
from faithfulness_plugin.results import vocabulary
from faithfulness_plugin.results.markdown import interval_text, markdown_table
from faithfulness_plugin.results.schema import Interval

PAIR_ERROR = jacobian_error("data")
LITTLE = 0.02
"""A try that takes less off the pair error than this share brings little."""
ENOUGH = 3
"""After this many tries in a row that bring little, one may stop."""


class Try(NamedTuple):
    """One variation, beside the same arm without it."""

    group: Group
    arm: Arm
    pair: Interval
    """The relative change of the pair error."""
    fvu: Interval
    """The relative change of FVU."""

    @property
    def brings(self) -> bool:
        """Whether it takes at least `LITTLE` off the pair error."""
        return self.pair.mean <= -LITTLE


def tries(result: RealLayersResult) -> list[Try]:
    """Compare every varied arm, and those with gates or another first dictionary, with the same arm without that.

    Args:
        result: complete or partial.

    Returns:
        The comparisons, in the order of the settings.
    """
    found = []
    for group in groups(result):
        for arm in group.arms():
            if arm != arm.unvaried and group.has(arm.unvaried):
                runs, others = group.runs(arm), group.runs(arm.unvaried)
                changes = [gain(result, runs, others, error).change for error in (PAIR_ERROR, fvu)]
                found.append(Try(group, arm, *changes))
    return found


def closing(result: RealLayersResult) -> str:
    """Format what every variation is worth.

    Args:
        result: complete or partial.

    Returns:
        Markdown; "" without variations.
    """
    found = tries(result)
    if not found:
        return ""
    header = ["block", "tried", vocabulary.jacobian_error("data"), "FVU", "pair error changes by", "FVU changes by"]
    ratios = [time_ratio(t.group, t.arm, t.arm.unvaried) for t in found]
    times = [["-" if ratio is None else f"{ratio:.2f}"] for ratio in ratios] if any(ratios) else [[] for _ in found]
    rows = [
        [
            t.group.name,
            t.arm.name,
            *(interval_text(t.group.error(t.arm, error), 3) for error in (PAIR_ERROR, fvu)),
            percent(t.pair),
            percent(t.fvu),
            *time,
        ]
        for t, time in zip(found, times, strict=True)
    ]
    header += ["time a step, of the same arm"] * any(ratios)
    said = (
        "**Closing the rest of the floor.** Each line changes one arm, and is compared with that arm, on the same "
        f"seeds and prompts. {_said(found)}"
    )
    return f"{said}\n\n{markdown_table(header, rows)}"


def _said(found: list[Try]) -> str:
    """Say which tries bring something, and whether the last ones bring little."""
    worth = [f"{t.arm.name} ({t.pair.mean:+.1%})" for t in found if t.brings]
    said = f"At least {LITTLE:.0%} less pair error: {'; '.join(worth) if worth else 'none'}."
    if len(found) >= ENOUGH and not any(t.brings for t in found[-ENOUGH:]):
        said += f" The last {ENOUGH} tries bring less than that each."
    return said
