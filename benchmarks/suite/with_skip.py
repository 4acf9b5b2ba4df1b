"""Matching together with a skip connection, against each of the two alone and neither."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Literal, NamedTuple

from faithfulness_plugin.benchmarks.methods.baselines import SWEEPS, TERMS, Baseline
from faithfulness_plugin.benchmarks.suite.at_layer_l0 import AtLayerL0, at_layer_l0
from faithfulness_plugin.benchmarks.suite.compare import difference, methods_of
from faithfulness_plugin.benchmarks.suite.schema import SuiteResult
from faithfulness_plugin.benchmarks.tasks.registry import task
from faithfulness_plugin.results.schema import Interval

MATCHING = tuple(name for name, term in TERMS.items() if term.jacobian)
"""Terms that match derivatives; augmentation, the control, matches outputs."""
TOGETHER = "matched with skip"
MARGIN = 0.01
"""A smaller mean difference of a score decides nothing, however narrow its interval."""
HIGHER_IS_BETTER = ("headline", "circuits_f1")

Verdict = Literal["best", "worse", "neither"]
VERDICTS: tuple[Verdict, ...] = ("best", "worse", "neither")


class Place(NamedTuple):
    """One architecture, matched by one term, at one task."""

    architecture: str
    term: str
    task: str
    arms: Mapping[str, AtLayerL0]
    """Unmatched, skip alone, matched and matched with skip; without those that no result has."""
    rival: str | None
    """The best of the first three by its mean score, among those that reach the layer's L0."""
    gain: Interval | None
    """By how much matched with skip is better than it, in units of the score, paired by seed; None where nothing is
    compared."""

    @property
    def verdict(self) -> Verdict | None:
        """Whether the whole interval is on one side of 0 and its mean at least `MARGIN` away; None without one."""
        if self.gain is None or self.gain.low is None or self.gain.high is None:
            return None
        if self.gain.low > 0 and self.gain.mean >= MARGIN:
            return "best"
        return "worse" if self.gain.high < 0 and self.gain.mean <= -MARGIN else "neither"


def methods_of_arms(architecture: str, term: str) -> dict[str, str]:
    """Name the methods of the four arms.

    Args:
        architecture: a key of `SWEEPS`.
        term: one of `MATCHING`.

    Returns:
        Methods by arm, `TOGETHER` last.
    """
    return {
        "unmatched": Baseline(architecture).name,
        "skip alone": Baseline(architecture, skip=True).name,
        "matched": Baseline(architecture, term).name,
        TOGETHER: Baseline(architecture, term, skip=True).name,
    }


def places(results: Sequence[SuiteResult], score: str) -> list[Place]:
    """Compare matched with skip with the best other arm, at each layer's own L0.

    Args:
        results: of one version of the benchmark.
        score: a field of `Scores`.

    Returns:
        Every architecture and term that was trained with a skip connection, at each of its tasks. At a control task,
        which has no mechanism to keep, nothing is compared.

    Raises:
        UsageError: as `methods_of`.
    """
    holders = methods_of(results)
    return [
        _place(holders, architecture, term, name, score)
        for architecture, term in product(SWEEPS, MATCHING)
        if (together := methods_of_arms(architecture, term)[TOGETHER]) in holders
        for name in holders[together].spec.tasks
    ]


def _place(holders: Mapping[str, SuiteResult], architecture: str, term: str, name: str, score: str) -> Place:
    methods = methods_of_arms(architecture, term)
    arms = {
        arm: at_layer_l0(holders[method], name, method)
        for arm, method in methods.items()
        if method in holders and name in holders[method].spec.tasks
    }
    sign = 1 if score in HIGHER_IS_BETTER else -1
    reached = {arm: sign * at.scores[score].mean for arm, at in arms.items() if at.scores}
    if reached.pop(TOGETHER, None) is None or not reached or task(name).keeps == "nothing":
        return Place(architecture, term, name, arms, None, None)
    rival = max(reached, key=reached.__getitem__)
    pair = (methods[TOGETHER], methods[rival])[::sign]  # the lower error first is the larger gain
    return Place(architecture, term, name, arms, rival, difference(holders, name, *pair).scores.get(score))
