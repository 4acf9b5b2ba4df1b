"""Methods in the order of a leaderboard: by the mean of their ranks over tasks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from faithfulness_plugin.benchmarks.suite.at_layer_l0 import AtLayerL0, at_layer_l0
from faithfulness_plugin.benchmarks.suite.compare import methods_of
from faithfulness_plugin.benchmarks.suite.schema import SuiteResult
from faithfulness_plugin.benchmarks.tasks.registry import task
from faithfulness_plugin.results.intervals import RANGE
from faithfulness_plugin.results.tables import Table

DIGITS = 3
"""Headlines that tables show as equal share a rank."""


class Ranked(NamedTuple):
    """One method with its scores at every task that it was run on."""

    method: str
    result: SuiteResult
    mean_rank: float
    """Over tasks with a mechanism to keep; 1 is best."""
    at: Mapping[str, AtLayerL0]
    """By task."""

    @property
    def reached(self) -> int:
        """The number of ranked tasks at which it reaches the layer's L0."""
        return sum(bool(self.at[name].scores) for name in with_mechanism(self.at))


def with_mechanism(tasks: Iterable[str]) -> list[str]:
    """Leave out the tasks whose layer has no mechanism to keep.

    Args:
        tasks: names.

    Returns:
        The others: all but the shuffled layer.
    """
    return [name for name in tasks if task(name).keeps != "nothing"]


def ranking(results: Sequence[SuiteResult]) -> list[Ranked]:
    """Rank all methods by their headlines at the layers' own L0, the best first.

    At a task, methods that do not reach the layer's L0 share the last places. A method is ranked at the tasks that it
    was run on, among those that were.

    Args:
        results: complete, of one version of the benchmark; the first one's tasks count.

    Returns:
        The methods.

    Raises:
        UsageError: as `methods_of`.
    """
    found, tasks = methods_of(results), results[0].spec.tasks
    at = {
        method: {name: at_layer_l0(result, name, method) for name in tasks if name in result.spec.tasks}
        for method, result in found.items()
    }
    ranks: dict[str, list[float]] = {method: [] for method in found}
    for name in with_mechanism(tasks):
        ran = [method for method in found if name in at[method]]
        headlines = [_headline(at[method][name]) for method in ran]
        for method, rank in zip(ran, rankdata([-headline for headline in headlines]), strict=True):
            ranks[method].append(float(rank))
    ranked = [Ranked(m, of, float(np.mean(ranks[m])) if ranks[m] else np.inf, at[m]) for m, of in found.items()]
    return sorted(ranked, key=lambda of: of.mean_rank)


def _headline(of: AtLayerL0) -> float:
    return round(of.scores["headline"].mean, DIGITS) if of.scores else -np.inf


def ranking_table(results: Sequence[SuiteResult]) -> Table:
    """Format the ranking with the headline at each task.

    Args:
        results: as for `ranking`.

    Returns:
        The table.

    Raises:
        UsageError: as `methods_of`.
    """
    ranked, tasks = ranking(results), results[0].spec.tasks
    n = len(with_mechanism(tasks))
    rows = [
        [
            of.method,
            f"{of.mean_rank:.1f}",
            f"{of.reached} of {n}",
            *(of.at[name].cell("headline") if name in of.at else None for name in tasks),
        ]
        for of in ranked
    ]
    caption = (
        "Headline at the layer's own L0 (1: the mechanism is kept, 0: the shortcut; shuffled layer: circuits found by "
        f"chance): mean and 95 % interval over seeds, {RANGE}. Mean rank: over the {n} tasks with a mechanism, of "
        f"{len(ranked)} methods, 1 is best; where a method does not reach the layer's L0 it shares the last places. "
        "Reached: at how many of these tasks it does."
    )
    return Table(["method", "mean rank", "reached", *tasks], rows, caption)
