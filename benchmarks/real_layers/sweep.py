"""Coefficients: of arms that differ in the coefficient alone, which one to take."""

from collections.abc import Sequence
from typing import NamedTuple

from faithfulness_plugin.benchmarks.real_layers.analysis import Group, groups
from faithfulness_plugin.benchmarks.real_layers.arms import Arm
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.measure.relative_errors import fvu, jacobian_error
from faithfulness_plugin.results.markdown import markdown_table

PAIR_ERROR = jacobian_error("data")


class Swept(NamedTuple):
    """The coefficients of one arm, on one block with one kind of transcoder."""

    group: Group
    arms: Sequence[Arm]
    """They differ in the coefficient alone."""
    winner: Arm | None
    """The one with the least pair error among those whose FVU is no worse than the baseline's; None for none."""

    @property
    def name(self) -> str:
        """The arm without a coefficient."""
        return without_coefficient(self.arms[0])


def without_coefficient(arm: Arm) -> str:
    """Name an arm without its coefficient.

    Args:
        arm: one with a term.

    Returns:
        The name.
    """
    return arm.name.replace(f" {arm.coefficient:g}", "", 1)


def winners(result: RealLayersResult) -> list[Swept]:
    """Choose coefficients where there are several: least pair error, at a mean FVU no worse than the same transcoder's
    without the term (skip alone, for arms with a skip connection).

    Args:
        result: complete or partial.

    Returns:
        One entry for each block, kind and arm with several coefficients.
    """
    found = []
    for group in groups(result):
        alike: dict[Arm, list[Arm]] = {}
        for arm in group.arms():
            if arm.term != "none" and group.has(arm.baseline):
                alike.setdefault(arm.model_copy(update={"coefficient": 1.0}), []).append(arm)
        for arms in alike.values():
            if len(arms) > 1:
                bound = group.value(arms[0].baseline, fvu)
                at_no_price = [arm for arm in arms if group.value(arm, fvu) <= bound]
                best = min(at_no_price, key=lambda arm: group.value(arm, PAIR_ERROR), default=None)
                found.append(Swept(group, arms, best))
    return found


def sweep(result: RealLayersResult) -> str:
    """Format the coefficients that were chosen, and name the sweeps without a winner.

    Args:
        result: complete or partial.

    Returns:
        Markdown; "" without several coefficients of one arm.
    """
    rows, lost = [], []
    for swept in winners(result):
        tried = ", ".join(f"{arm.coefficient:g}" for arm in swept.arms)
        if swept.winner is None:
            lost.append(f"{swept.name} (block {swept.group.name}; {tried})")
        chosen = "none" if swept.winner is None else f"{swept.winner.coefficient:g}"
        rows.append([swept.group.name, swept.name, tried, chosen])
    if not rows:
        return ""
    parts = [
        "**Coefficients.** Chosen: the least pair error at an FVU no worse than without the term.",
        markdown_table(["block", "arm", "coefficients", "chosen"], rows),
    ]
    if lost:
        parts.append(f"A sweep without a winner, every coefficient raising FVU: {'; '.join(lost)}.")
    return "\n\n".join(parts)
