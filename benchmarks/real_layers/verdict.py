"""Which arms lower both errors at next to no price in FVU, and which of them are ahead of augmentation."""

from collections.abc import Sequence

import numpy as np

from faithfulness_plugin.benchmarks.real_layers.analysis import (
    NONE,
    Read,
    fvu,
    gain,
    gain_in,
    groups_of,
    jacobian_error,
    matched_arms,
    of_arm,
    response_error,
)
from faithfulness_plugin.benchmarks.real_layers.arms import Arm, Kind
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.results.schema import Interval

TOLERATED, SAME_L0 = 0.01, 0.05
"""By how much FVU may rise, and L0 differ."""


def verdict(result: RealLayersResult, block: int, kind: Kind) -> str:
    """Which matched arms lower both errors (whole interval) at a mean FVU no more than 1 % worse and the same L0, which
    of them have all of the FVU's interval below that, and in which errors they are ahead of augmentation."""
    pair, half_way = jacobian_error("data"), response_error("difference")
    arms = [a for a in matched_arms(result, block, kind) if a.term != "augmentation"]
    controls = [a for a in matched_arms(result, block, kind) if a.term == "augmentation"]
    l0 = np.mean([t.l0 for t in of_arm(result, block, kind, NONE)])

    def change(arm: Arm, read: Read) -> Interval:
        return gain_in(result, block, kind, arm, read).change

    def lowers_both(arm: Arm) -> bool:
        same = abs(np.mean([t.l0 for t in of_arm(result, block, kind, arm)]) / l0 - 1) <= SAME_L0
        cheap = change(arm, fvu).mean <= TOLERATED
        return bool(same) and cheap and all(_below(0.0, change(arm, read)) for read in (pair, half_way))

    def beats_controls(arm: Arm, read: Read) -> bool:
        of = of_arm(result, block, kind, arm)
        return all(_below(0.0, gain(result, of, of_arm(result, block, kind, c), read).change) for c in controls)

    found = [arm for arm in arms if lowers_both(arm)]
    told = f"Block {block}, {kind.name}: {_listed(found)}"
    if not found:
        return f"{told}."
    sure = _listed([arm for arm in found if _below(TOLERATED, change(arm, fvu))])
    told += f"; with all of the FVU's interval below 1 %: {sure}"
    if not controls:
        return f"{told}."
    errors = {"the Jacobian error": pair, "the half-way error": half_way}
    ahead = [f"in {name} {_listed([a for a in found if beats_controls(a, read)])}" for name, read in errors.items()]
    return f"{told}. Ahead of augmentation (paired interval): {'; '.join(ahead)}."


def verdicts(result: RealLayersResult, kinds: Sequence[Kind] | None = None) -> str:
    """Of every block and kind, with what they answer."""
    seeds = result.config.seeds
    of = f"{seeds} seeds and held-out prompts" if seeds > 1 else "held-out prompts"
    alone = "" if seeds > 1 else " One seed: the intervals leave out how trainings differ from each other."
    told = (
        f"Changes against no term on the same tokens, with 95 % intervals over {of}.{alone} Which arms lower both the "
        "Jacobian error along pairs and the half-way error, at an FVU that is on average no more than 1 % worse?"
    )
    groups = [g for g in groups_of(result) if matched_arms(result, *g) and (kinds is None or g[1] in kinds)]
    return told + "\n\n" + "\n".join(f"- {verdict(result, block, kind)}" for block, kind in groups)


def _listed(arms: Sequence[Arm]) -> str:
    names = [arm.name for arm in arms]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names) or "nothing"


def _below(bound: float, change: Interval) -> bool:
    return change.high is not None and change.high < bound
