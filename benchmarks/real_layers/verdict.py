"""Which arms lower both errors at no price in FVU, and which of them are ahead of augmentation."""

from collections.abc import Sequence

from faithfulness_plugin.benchmarks.real_layers.analysis import (
    Read,
    fvu,
    gain,
    gain_in,
    jacobian_error,
    matched_arms,
    of_arm,
    response_error,
)
from faithfulness_plugin.benchmarks.real_layers.arms import Arm, Kind
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.benchmarks.schema import Interval

TOLERATED = 0.01
"""By how much FVU may rise."""


def verdict(result: RealLayersResult, block: int, kind: Kind) -> str:
    """Which data probes lower both errors at no more than 1 % of FVU, and in which errors they beat augmentation."""
    pair, half_way = jacobian_error("data"), response_error("difference")
    arms = [a for a in matched_arms(result, block, kind) if a.term != "augmentation" and a.probe != "isotropic"]
    controls = [a for a in matched_arms(result, block, kind) if a.term == "augmentation"]

    def both_lower(arm: Arm) -> bool:
        changes = [gain_in(result, block, kind, arm, read).change for read in (pair, half_way)]
        return gain_in(result, block, kind, arm, fvu).change.mean <= TOLERATED and all(map(_below_0, changes))

    def beats_controls(arm: Arm, read: Read) -> bool:
        of = of_arm(result, block, kind, arm)
        return all(_below_0(gain(result, of, of_arm(result, block, kind, c), read).change) for c in controls)

    found = [arm for arm in arms if both_lower(arm)]
    told = f"Block {block}, {kind.name}: {_listed(found)} lower{'s' * (len(found) < 2)} both at no such price"
    if not found or not controls:
        return f"{told}."
    errors = {"the Jacobian error": pair, "the half-way error": half_way}
    ahead = [f"in {name} {_listed([a for a in found if beats_controls(a, read)])}" for name, read in errors.items()]
    return f"{told}. Ahead of augmentation (paired interval): {'; '.join(ahead)}."


def verdicts(result: RealLayersResult) -> str:
    """Of every block, for the first kind, with what they say."""
    lines = [f"- {verdict(result, block, result.config.kinds[0])}" for block in result.config.blocks]
    told = (
        "Changes against no term on the same tokens, with 95 % intervals over held-out prompts. Which data probes "
        "lower both the Jacobian error and the half-way error, at an FVU no more than 1 % worse?"
    )
    return told + "\n\n" + "\n".join(lines)


def _listed(arms: Sequence[Arm]) -> str:
    names = [arm.name for arm in arms]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names) or "nothing"


def _below_0(change: Interval) -> bool:
    return change.high is not None and change.high < 0
