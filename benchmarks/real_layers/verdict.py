"""Which arms lower both errors at next to no price in FVU, and which of them are ahead of augmentation."""

from collections.abc import Sequence

import numpy as np

from faithfulness_plugin.benchmarks.real_layers.analysis import Group, gain, groups
from faithfulness_plugin.benchmarks.real_layers.arms import Arm
from faithfulness_plugin.benchmarks.real_layers.kinds import Kind
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.measure.relative_errors import RelativeError, fvu, jacobian_error, response_error
from faithfulness_plugin.results.schema import Interval

TOLERATED, SAME_L0 = 0.01, 0.05
"""The largest rise of FVU, and the largest difference of L0, that count as none."""
ERRORS = {"the Jacobian error": jacobian_error("data"), "the response error half-way": response_error("difference")}


def verdict(group: Group) -> str:
    """Say which matched arms lower both errors (whole interval) at a mean FVU no more than 1 % worse and the same L0,
    which of them have all of the FVU's interval below that, and in which errors they are ahead of augmentation.

    Args:
        group: the runs.

    Returns:
        One line.
    """
    arms = [a for a in group.matched() if a.term != "augmentation"]
    controls = [a for a in group.matched() if a.term == "augmentation"]
    l0 = np.mean([t.l0 for t in group.runs()])

    def lowers_both(arm: Arm) -> bool:
        same = abs(np.mean([t.l0 for t in group.runs(arm)]) / l0 - 1) <= SAME_L0
        cheap = group.change(arm, fvu).mean <= TOLERATED
        return bool(same) and cheap and all(_below(0.0, group.change(arm, error)) for error in ERRORS.values())

    def beats_controls(arm: Arm, error: RelativeError) -> bool:
        runs = group.runs(arm)
        return all(_below(0.0, gain(group.result, runs, group.runs(c), error).change) for c in controls)

    found = [arm for arm in arms if lowers_both(arm)]
    text = f"Block {group.name}: {_listed(found)}"
    if not found:
        return f"{text}."
    sure = _listed([arm for arm in found if _below(TOLERATED, group.change(arm, fvu))])
    text += f"; with all of the FVU's interval below 1 %: {sure}"
    if not controls:
        return f"{text}."
    ahead = [f"in {name} {_listed([a for a in found if beats_controls(a, error)])}" for name, error in ERRORS.items()]
    return f"{text}. Ahead of augmentation (paired interval): {'; '.join(ahead)}."


def verdicts(result: RealLayersResult, kinds: Sequence[Kind] | None = None) -> str:
    """Say the verdict of every block and kind, with the question that they answer.

    Args:
        result: complete or partial.
        kinds: which kinds; None for all.

    Returns:
        Markdown.
    """
    seeds = result.config.seeds
    over = f"{seeds} seeds and held-out prompts" if seeds > 1 else "held-out prompts"
    alone = "" if seeds > 1 else " One seed: the intervals leave out how trainings differ from each other."
    question = (
        f"Changes against no term on the same tokens, with 95 % intervals over {over}.{alone} Which arms lower both "
        "the Jacobian error along pairs and the response error half-way, at an FVU that is on average no more than 1 % "
        "worse?"
    )
    return question + "\n\n" + "\n".join(f"- {verdict(g)}" for g in groups(result, kinds) if g.matched())


def _listed(arms: Sequence[Arm]) -> str:
    names = [arm.name for arm in arms]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names) or "nothing"


def _below(bound: float, change: Interval) -> bool:
    return change.high is not None and change.high < bound
