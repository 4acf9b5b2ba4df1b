"""What the truth test says, in sentences that follow from its intervals."""

from typing import NamedTuple

from faithfulness_plugin.benchmarks.whole_model.analysis import (
    ALL_FEATURES,
    INPUTS,
    KL,
    ON,
    PAIR_ERROR,
    Number,
    interventions,
    truth,
)
from faithfulness_plugin.benchmarks.whole_model.arms import WITH_NOTHING, WITH_SKIP, SetArm
from faithfulness_plugin.benchmarks.whole_model.schema import WholeModelResult
from faithfulness_plugin.results.schema import Interval

BETTER, WORSE, SAME = "better", "worse", "no different"
RANK = "rank correlation"


class Comparison(NamedTuple):
    """Two arms, and what their difference is about."""

    arm: SetArm
    other: SetArm
    about: str


class Judged(NamedTuple):
    """One agreement of predicted with measured effects, in both arms."""

    comparison: Comparison
    where: str
    ours: Interval
    theirs: Interval
    change: Interval

    @property
    def outcome(self) -> str:
        """Better or worse where the whole interval of the difference is on one side of 0."""
        low, high = self.change.drawn
        return BETTER if low > 0 else WORSE if high < 0 else SAME

    @property
    def text(self) -> str:
        """The numbers."""
        return f"{self.where} {self.theirs.mean:.2f} → {self.ours.mean:.2f} ({_signed(self.change)})"


def comparisons(result: WholeModelResult) -> list[Comparison]:
    """List the comparisons that the arms allow: matching with and without a skip connection, the skip connection,
    controls, and second phases.

    Args:
        result: complete or partial.

    Returns:
        The comparisons whose arms were both measured.
    """
    have = list(dict.fromkeys(of.arm for of in result.sets))
    matched = [arm for arm in have if arm.arm.jacobian is not None and arm.then is None and arm.control is None]
    found = []
    for arm in matched:
        with_skip = "with a skip connection" if arm.arm.skip else "without a skip connection"
        found.append(Comparison(arm, SetArm(arm=arm.arm.baseline), f"matching, {with_skip}"))
    found.append(Comparison(WITH_SKIP, WITH_NOTHING, "the skip connection, without matching"))
    augmented = [arm for arm in have if arm.arm.term == "augmentation"]
    found += [Comparison(a, b, f"matching, against {b.name}") for a in matched for b in augmented if a.arm.skip]
    found += [Comparison(arm, arm.before, f"what follows: {arm.then}") for arm in have if arm.then is not None]
    for arm in have:
        if arm.then == "KL and loss":
            found.append(Comparison(arm, arm.model_copy(update={"then": "KL"}), "their own loss beside KL"))
        if arm.control == "permuted model" and arm.arm.jacobian is not None:
            other = SetArm(arm=arm.arm.baseline, control=arm.control)
            found.append(Comparison(arm, other, "matching, in the permuted model"))
    return [of for of in found if of.arm in have and of.other in have]


def judged(result: WholeModelResult, comparison: Comparison) -> list[Judged]:
    """Compare two arms by the rank correlation of predicted with measured effects.

    Args:
        result: complete or partial.
        comparison: the arms.

    Returns:
        Effects of features and of inputs, on logits and on later features.
    """
    found = []
    for cause in (ALL_FEATURES, INPUTS):
        for on, called in ON.items():
            number = truth(RANK, cause, on)
            ours, theirs, change = _three(number, result, comparison)
            if ours is not None and theirs is not None and change is not None:
                found.append(Judged(comparison, f"{cause.name} on {called}", ours, theirs, change))
    return found


def _three(
    number: Number, result: WholeModelResult, comparison: Comparison
) -> tuple[Interval | None, Interval | None, Interval | None]:
    ours, theirs = number.mean(result, comparison.arm), number.mean(result, comparison.other)
    return ours, theirs, number.change(result, comparison.arm, comparison.other)


def headline(result: WholeModelResult) -> str:
    """Say in one sentence whether matching makes attribution graphs tell more of the truth.

    Args:
        result: complete or partial.

    Returns:
        The sentence; "" where no arm with a skip connection is matched.
    """
    found = next((of for of in comparisons(result) if of.arm.arm.skip and of.arm.arm.jacobian is not None), None)
    if found is None or found.arm.then is not None:
        return ""
    each = judged(result, found)
    outcomes = {of.outcome for of in each}
    if outcomes == {BETTER}:
        says = "makes attribution graphs truer"
    elif outcomes == {WORSE}:
        says = "makes attribution graphs less true"
    elif outcomes == {SAME}:
        says = "leaves attribution graphs as true as they were, as far as this test can tell"
    else:
        parts = [(o, [of.where for of in each if of.outcome == o]) for o in (BETTER, WORSE, SAME)]
        says = "makes what attribution graphs predict " + "; ".join(
            f"{outcome} for {', '.join(places)}" for outcome, places in parts if places
        )
    numbers = ", ".join(of.text for of in each)
    return (
        f"**With a skip connection, Jacobian matching {says}.** Rank correlation of predicted with measured effects: "
        f"{numbers}."
    )


def verdicts(result: WholeModelResult) -> str:
    """Write every comparison in a line.

    Args:
        result: complete or partial.

    Returns:
        Markdown.
    """
    lines = []
    for comparison in comparisons(result):
        numbers = "; ".join(f"{of.outcome}: {of.text}" for of in judged(result, comparison))
        more = []
        for number in (PAIR_ERROR, KL):
            if (change := number.change(result, comparison.arm, comparison.other)) is not None:
                more.append(f"{number.name} {_signed(change)}")
        lines.append(f"- **{comparison.about}** ({comparison.arm.name}). {numbers}. Beside it: {', '.join(more)}.")
    seeds = result.config.seeds
    over = f"prompts and {seeds} seeds" if seeds > 1 else "prompts (one seed)"
    return "\n".join([
        f"Rank correlations of predicted with measured effects, {interventions(result):,} interventions a set on "
        f"{result.config.truth_prompts} prompts; in brackets the difference with its 95 % interval over {over}, "
        "paired. Better and worse: the whole interval is on one side of 0.",
        "",
        *lines,
    ])  # fmt: skip


def _signed(of: Interval) -> str:
    low, high = of.drawn
    return f"{of.mean:+.3f} [{low:+.3f}, {high:+.3f}]"
