"""Paired differences between methods, over the seeds that they share."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from faithfulness_plugin.benchmarks.suite.at_layer_l0 import seed_scores
from faithfulness_plugin.benchmarks.suite.schema import Scores, SuiteResult
from faithfulness_plugin.benchmarks.suite.sweep import SweepResult
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.results.arms import arms_by_name, require_known
from faithfulness_plugin.results.intervals import RANGE, interval
from faithfulness_plugin.results.schema import Interval
from faithfulness_plugin.results.tables import Table

KIND = "method"
DEFAULT_SCORES = ("headline", "jacobian_error", "fvu")


class Difference(NamedTuple):
    """The paired difference between two methods."""

    n: int
    """Seeds at which both reach the layer's L0."""
    scores: dict[str, Interval]
    """Empty for fewer than two seeds."""


def methods_of(results: Sequence[SuiteResult]) -> dict[str, SuiteResult]:
    """Find the result that holds each method, the first result's first.

    Args:
        results: of one version of the benchmark.

    Returns:
        Results by the method's name.

    Raises:
        UsageError: results of different versions of the benchmark, without a common task, with fewer than two common
            seeds, or with different methods of one name.
    """
    first = results[0].spec
    for spec in (result.spec for result in results):
        if spec.suite_version != first.suite_version:
            raise UsageError(
                f"one result is of version {first.suite_version} of the benchmark and one of version "
                f"{spec.suite_version}, whose numbers mean other things: run one of them again"
            )
        if not set(spec.tasks) & set(first.tasks):
            raise UsageError(
                f"the results have no task in common ({', '.join(first.tasks)}; {', '.join(spec.tasks)}): run one of "
                "them on the other's"
            )
        if len(set(spec.seeds) & set(first.seeds)) < 2:
            raise UsageError("the results have fewer than two seeds in common, and differences are paired by seed")
    return arms_by_name(KIND, ((m.name, m.decisive, result) for result in results for m in result.spec.methods))


def difference(results: Mapping[str, SweepResult], task: str, method: str, against: str) -> Difference:
    """Compute method - against at one task, at the layer's own L0, paired by seed.

    Args:
        results: by the names of the methods that they hold.
        task: the task's name.
        method: the method's name.
        against: the other method's name.

    Returns:
        The interval of each score, and the number of pairs.
    """
    pairs = []
    for seed in results[method].seeds:
        ours, theirs = (seed_scores(results[name], task, name, seed) for name in (method, against))
        if ours is not None and theirs is not None:
            pairs.append((ours, theirs))
    scores = {}
    if len(pairs) > 1:
        scores = {name: interval([ours[name] - theirs[name] for ours, theirs in pairs]) for name in pairs[0][0]}
    return Difference(len(pairs), scores)


def comparison(
    results: Sequence[SuiteResult],
    against: str,
    *,
    arms: Sequence[str] = (),
    tasks: Sequence[str] = (),
    scores: Sequence[str] = (),
) -> Table:
    """Compare methods with one of them, task by task.

    Args:
        results: of one version of the benchmark.
        against: the method that the others are compared with.
        arms: the methods; none for all.
        tasks: tasks that all results have; none for all of those.
        scores: fields of `Scores`; none for `DEFAULT_SCORES`.

    Returns:
        Differences, with 95 % intervals over seeds.

    Raises:
        UsageError: as `methods_of`; unknown names.
    """
    found, scores = methods_of(results), scores or DEFAULT_SCORES
    common = [name for name in results[0].spec.tasks if all(name in result.spec.tasks for result in results)]
    require_known(KIND, [against, *arms], list(found))
    require_known("task", tasks, common)
    require_known("score", scores, list(Scores.model_fields))
    rows, n_trials = [], 0
    for task in tasks or common:
        for name in arms or [name for name in found if name != against]:
            n, by_score = difference(found, task, name, against)
            n_trials += n
            rows.append([task, name, str(n), *(by_score.get(score) for score in scores)])
    caption = (
        f"Difference to {against} at the layer's own L0, paired by seed: mean and 95 % interval (Student's t) over the "
        f"seeds at which both reach it, {RANGE}; a dash where fewer than two do. In common: {n_trials:,} trials, of "
        f"{len(tasks or common)} tasks."
    )
    return Table(["task", "method", "seeds", *scores], rows, caption)
