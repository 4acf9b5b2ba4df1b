"""What is claimed of matching with a skip connection, in sentences, each with the condition that it rests on."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

from faithfulness_plugin.benchmarks.real_layers.analysis import Group, difference, gain, groups
from faithfulness_plugin.benchmarks.real_layers.arms import Arm
from faithfulness_plugin.benchmarks.real_layers.cells import percent
from faithfulness_plugin.benchmarks.real_layers.prices import time_ratio
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult, RunRecord
from faithfulness_plugin.benchmarks.real_layers.sweep import winners
from faithfulness_plugin.measure.relative_errors import delta_ce, fvu, jacobian_error, kl
from faithfulness_plugin.results.markdown import interval_text
from faithfulness_plugin.results.schema import Interval

PAIR_ERROR = jacobian_error("data")
AIM = 0.6
"""The pair error that matching with a skip connection is to reach."""


class Claim(NamedTuple):
    """A sentence about one arm of one group, and whether it holds."""

    group: Group
    arm: Arm
    holds: bool | None
    """None where the interval leaves it open."""
    text: str

    @property
    def line(self) -> str:
        """The sentence with its verdict."""
        words = {True: "holds", False: "**does not hold**", None: "undecided"}
        return f"{words[self.holds]}: {self.text}"


Check = Callable[[Group, Arm], Sequence[tuple[bool | None, str]]]


def claims(result: RealLayersResult) -> list[Claim]:
    """Check every claim of every arm that matches with a skip connection. Of arms that differ in the coefficient alone,
    the one that a sweep chooses stands for all.

    Args:
        result: complete or partial.

    Returns:
        Those that the runs so far decide, by block and kind.
    """
    left_out = [(swept.group.name, arm) for swept in winners(result) for arm in swept.arms if arm != swept.winner]
    return [
        Claim(group, arm, holds, text)
        for group in groups(result)
        for arm in group.arms()
        if arm.is_recipe and (group.name, arm) not in left_out
        for check in CHECKS
        for holds, text in check(group, arm)
    ]


def verdicts(result: RealLayersResult) -> str:
    """Write the claims as a list, arm by arm.

    Args:
        result: complete or partial.

    Returns:
        Markdown; "" where no arm matches with a skip connection.
    """
    found = claims(result)
    if not found:
        return ""
    seeds = result.config.seeds
    over = f"{seeds} seeds and held-out prompts" if seeds > 1 else "held-out prompts"
    alone = "" if seeds > 1 else " One seed: the intervals leave out how trainings differ from each other."
    lines = [
        f"Changes are relative, paired by seed and prompt, with 95 % intervals over {over}.{alone} A comparison of "
        "pair errors holds where its whole interval is below 0; what the spliced model loses is undecided where the "
        "interval holds 0."
    ]
    for (name, arm), together in groupby(found, key=lambda claim: (claim.group.name, claim.arm)):
        own = list(together)
        error = interval_text(own[0].group.error(arm, PAIR_ERROR), 3)
        lines.append(f"**Block {name}: {arm.name}** (Jacobian error along pairs {error})")
        lines.append("\n".join(f"- {claim.line}" for claim in own))
    return "\n\n".join(lines)


def _reaches_aim(group: Group, arm: Arm) -> list[tuple[bool, str]]:
    error = group.error(arm, PAIR_ERROR)
    return [(error.mean <= AIM, f"its pair error is at most {AIM:.2f} ({error.mean:.3f})")]


def _beats_skip_alone(group: Group, arm: Arm) -> list[tuple[bool, str]]:
    if not group.has(arm.baseline):
        return []
    pair, price = group.change(arm, PAIR_ERROR), group.change(arm, fvu)
    text = f"less pair error than skip alone ({percent(pair)}) at an FVU no worse ({percent(price)})"
    return [(below_0(pair) and price.mean <= 0, text)]


def _beats_controls(group: Group, arm: Arm) -> list[tuple[bool, str]]:
    """Compare with the constant map, augmentation, frozen skip connections, first dictionaries and extra compute."""
    found = []
    for other, runs in _controls(group):
        change = gain(group.result, group.runs(arm), runs, PAIR_ERROR).change
        found.append((below_0(change), f"less pair error than {_called(group, arm, other)} ({percent(change)})"))
        if other.control == "extra compute":
            price = gain(group.result, group.runs(arm), runs, fvu).change
            steps = f"skip alone with {group.result.config.extra_compute:g} times the steps"
            found.append((price.mean <= 0, f"an FVU no worse than {steps} ({percent(price)})"))
    return found


def _controls(group: Group) -> list[tuple[Arm, list[RunRecord]]]:
    """List the controls on the real layer that match no derivative, with their runs."""
    constant = Arm(skip=True, control="constant map")
    of_block = Group(group.result, group.block, group.result.config.kinds[0])  # one for all kinds
    own = [
        arm
        for arm in group.arms()
        if arm.is_control and arm.layer == "real" and arm.skip and arm.term in ("none", "augmentation")
    ]
    found = {constant: of_block.runs(constant)} | {arm: group.runs(arm) for arm in own}
    return [(arm, runs) for arm, runs in found.items() if runs]


def _called(group: Group, arm: Arm, other: Arm) -> str:
    if other.control == "constant map":
        return "the constant map"
    if other.control != "extra compute":
        return other.name
    ratio, paid = group.result.config.extra_compute, time_ratio(group, arm, arm.baseline)
    measured = "" if paid is None else f"; a step of this arm costs {paid:.2f}"
    return f"skip alone with {ratio:g} times the steps{measured}"


def _beats_larger_k(group: Group, arm: Arm) -> list[tuple[bool, str]]:
    """Compare with skip alone at a weaker sparsity of the same architecture."""
    result, found = group.result, []
    for kind in [*result.config.kinds, *result.config.line]:
        other = Group(result, group.block, kind)
        if kind == group.kind or kind.architecture != group.kind.architecture or not other.has(arm.baseline):
            continue
        if _denser(other, group, arm):
            change = gain(result, group.runs(arm), other.runs(arm.baseline), PAIR_ERROR).change
            found.append((below_0(change), f"less pair error than skip alone with {kind.name} ({percent(change)})"))
    return found


def _denser(other: Group, group: Group, arm: Arm) -> bool:
    return min(t.l0 for t in other.runs(arm.baseline)) > max(t.l0 for t in group.runs(arm))


def _helps_downstream(group: Group, arm: Arm) -> list[tuple[bool | None, str]]:
    """Compare what the spliced models lose, in nats: relative to next to nothing a change would be huge."""
    runs, others = group.runs(arm), group.runs(arm.baseline)
    if not others or any(of.spliced is None for of in [*runs, *others]):
        return []
    found = []
    for read, name in (
        (delta_ce, "the spliced model loses no more than with skip alone: ΔCE"),
        (kl, "its predictions are no further from the model's: KL"),
    ):
        ours, theirs = group.value(arm, read), group.value(arm.baseline, read)
        change = difference(group.result, runs, others, read)
        low, high = change.drawn
        holds = True if high <= 0 else False if low > 0 else None
        text = f"{name} {ours:.4f}, {theirs:.4f} ({change.mean:+.4f} [{low:+.4f}, {high:+.4f}] nats a token)"
        found.append((holds, text))
    return found


def _needs_the_layer(group: Group, arm: Arm) -> list[tuple[bool, str]]:
    """Compare the gain with that on the layer with permuted weights."""
    other = arm.model_copy(update={"layer": "permuted"})
    if not group.has(arm.baseline, other, other.baseline):
        return []
    real, permuted = group.change(arm, PAIR_ERROR), group.change(other, PAIR_ERROR)
    text = f"gains more over skip alone ({percent(real)}) than with permuted weights ({percent(permuted)})"
    return [(real.high is not None and permuted.low is not None and real.high < permuted.low, text)]


CHECKS: tuple[Check, ...] = (
    _reaches_aim,
    _beats_skip_alone,
    _beats_controls,
    _beats_larger_k,
    _helps_downstream,
    _needs_the_layer,
)


def below_0(change: Interval) -> bool:
    """Tell whether a change's whole interval is below 0.

    Args:
        change: a relative change.

    Returns:
        Whether it is.
    """
    return change.high is not None and change.high < 0
