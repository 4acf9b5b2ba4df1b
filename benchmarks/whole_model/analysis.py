"""Numbers of arms, and their differences, with intervals over prompts and seeds."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from faithfulness_plugin.attribution.agreement import STATISTICS
from faithfulness_plugin.attribution.interventions import Kind
from faithfulness_plugin.attribution.truth import On
from faithfulness_plugin.benchmarks.whole_model.arms import SetArm
from faithfulness_plugin.benchmarks.whole_model.schema import SetRecord, WholeModelResult
from faithfulness_plugin.benchmarks.whole_model.truth_of import sums_by_prompt
from faithfulness_plugin.results.hierarchical_bootstrap import hierarchical_bootstrap
from faithfulness_plugin.results.schema import Interval

Sums = Callable[[SetRecord], np.ndarray]
"""[parts, prompts] of one set."""
Statistic = Callable[[np.ndarray], np.ndarray]
"""Maps sums over prompts [..., seeds, parts] to a mean over seeds [...]."""
ON: dict[On, str] = {"logits": "logits", "features": "later features"}


class Cause(NamedTuple):
    """A group of interventions."""

    name: str
    kinds: frozenset[Kind]


FEATURES = Cause("single features", frozenset({"remove", "double"}))
SUPERNODES = Cause("all features of a token", frozenset({"remove token's features"}))
INPUTS = Cause("inputs", frozenset({"input"}))
CAUSES = (FEATURES, SUPERNODES, INPUTS)
ALL_FEATURES = Cause("features", FEATURES.kinds | SUPERNODES.kinds)


class Number(NamedTuple):
    """What a column shows of an arm."""

    name: str
    sums: Callable[[WholeModelResult], Sums]
    statistic: Statistic
    digits: int = 3

    def mean(self, result: WholeModelResult, arm: SetArm) -> Interval | None:
        """Average over the seeds of an arm.

        Args:
            result: complete or partial.
            arm: which arm.

        Returns:
            The mean with its interval; None where there is no set.
        """
        read = self.sums(result)
        parts = [read(of) for of in result.of(arm)]
        return hierarchical_bootstrap(parts, self.statistic) if parts else None

    def change(self, result: WholeModelResult, arm: SetArm, other: SetArm) -> Interval | None:
        """Subtract another arm's mean, paired by seed and prompt.

        Args:
            result: complete or partial.
            arm: which arm.
            other: the arm to subtract.

        Returns:
            The difference with its interval; None where no seed has both.
        """
        read, theirs = self.sums(result), {of.seed: of for of in result.of(other)}
        pairs = [np.concatenate([read(of), read(theirs[of.seed])]) for of in result.of(arm) if of.seed in theirs]
        if not pairs:
            return None
        n = len(pairs[0]) // 2
        return hierarchical_bootstrap(pairs, lambda s: self.statistic(s[..., :n]) - self.statistic(s[..., n:]))


def truth(name: str, cause: Cause, on: On, distance: int | None = None) -> Number:
    """Choose how well predicted effects agree with measured ones.

    Args:
        name: one of STATISTICS.
        cause: the interventions.
        on: which targets respond.
        distance: the group of distances in blocks; None for all.

    Returns:
        The number.
    """

    def sums(result: WholeModelResult) -> Sums:
        n = result.config.truth_prompts
        return lambda of: sums_by_prompt(of.truth, n, set(cause.kinds), on, distance)

    return Number(name, sums, STATISTICS[name])


def interventions(result: WholeModelResult) -> int:
    """Count the interventions that each set is judged by.

    Args:
        result: complete or partial.

    Returns:
        How many, of all kinds, on all prompts.
    """
    return 4 * result.config.interventions * result.config.truth_prompts


def distances(result: WholeModelResult, cause: Cause, on: On) -> list[int]:
    """List the groups of distances that have pairs.

    Args:
        result: complete or partial.
        cause: the interventions.
        on: which targets respond.

    Returns:
        The least distance of each, in ascending order.
    """
    return sorted(
        {part.distance for of in result.sets for part in of.truth if part.kind in cause.kinds and part.on == on}
    )


def _mean_of_prompts(s: np.ndarray) -> np.ndarray:
    return (s[..., 0] / s[..., 1]).mean(-1)


def _counted(read: Callable[[WholeModelResult, SetRecord], Sequence[float]]) -> Callable[[WholeModelResult], Sums]:
    """Put the number of tokens beside what is summed over them."""

    def sums(result: WholeModelResult) -> Sums:
        def of_set(of: SetRecord) -> np.ndarray:
            values = np.array(read(result, of))
            return np.stack([values, np.full(len(values), result.config.context_size - 1.0)])

        return of_set

    return sums


def _cost(result: WholeModelResult, of: SetRecord) -> list[float]:
    clean = result.ce_clean_permuted if of.arm.control == "permuted model" else result.ce_clean
    return [ce - before for ce, before in zip(of.ce, clean, strict=True)]


def _of_layers(above: str, below: str) -> Callable[[WholeModelResult], Sums]:
    def sums(result: WholeModelResult) -> Sums:
        del result
        # [2 * layers, prompts]
        return lambda of: np.array([getattr(layer, name) for name in (above, below) for layer in of.layers])

    return sums


def _mean_ratio(s: np.ndarray) -> np.ndarray:
    """Average over layers the ratio of the sums over prompts."""
    n = s.shape[-1] // 2
    return (s[..., :n] / s[..., n:]).mean(-1).mean(-1)


FVU = Number("FVU", _of_layers("error", "variance"), _mean_ratio)
PAIR_ERROR = Number("Jacobian error (pairs)", _of_layers("jacobian_error", "jacobian"), _mean_ratio)
KL = Number("KL, all replaced", _counted(lambda result, of: of.kl), _mean_of_prompts)
DELTA_CE = Number("ΔCE", _counted(_cost), _mean_of_prompts)
TOP_1 = Number("top-1 agreement", _counted(lambda result, of: of.agreed), _mean_of_prompts)
SETS = (FVU, PAIR_ERROR, KL, DELTA_CE, TOP_1)


def _of_graphs(name: str) -> Number:
    def sums(result: WholeModelResult) -> Sums:
        del result
        return lambda of: np.array([[getattr(graph, name) for graph in of.graphs], [1.0] * len(of.graphs)])

    return Number(name.replace("_", " "), sums, _mean_of_prompts)


SCORES = tuple(map(_of_graphs, ("replacement", "completeness", "pruned_replacement", "pruned_completeness")))
