"""Paired differences between methods, over the seeds that they share."""

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import Field

from faithfulness_plugin.benchmarks.suite.at_layer_l0 import seed_scores
from faithfulness_plugin.benchmarks.suite.schema import SuiteResult
from faithfulness_plugin.benchmarks.suite.scores import Scores
from faithfulness_plugin.nearest import nearest
from faithfulness_plugin.results.intervals import RANGE, interval
from faithfulness_plugin.results.schema import CompareError, Interval, Record
from faithfulness_plugin.results.tables import Table


class Entry(NamedTuple):
    """A method in a result."""

    result: SuiteResult
    method: str


class Difference(Record):
    """method - against at one task, at the layer's own L0."""

    task: str
    method: str
    against: str
    n: int = Field(description="seeds at which both reach the layer's L0")
    scores: dict[str, Interval] = Field(description="of the paired differences; empty for fewer than two seeds")


def entries(results: Sequence[SuiteResult]) -> dict[str, Entry]:
    """The methods of all results by name, the first result's first.

    Raises CompareError for results that cannot be compared: other versions of the benchmark, no task or fewer than two
    seeds in common, or one method's name with two settings."""
    first, found = results[0], dict[str, Entry]()
    for result in results:
        if result.spec.suite_version != first.spec.suite_version:
            raise CompareError(
                f"one result is of version {first.spec.suite_version} of the benchmark and one of version "
                f"{result.spec.suite_version}, whose numbers mean other things: run one of them again"
            )
        if not set(result.spec.tasks) & set(first.spec.tasks):
            raise CompareError(
                f"the results have no task in common ({', '.join(first.spec.tasks)}; {', '.join(result.spec.tasks)}): "
                "run one of them on the other's"
            )
        if len(set(result.spec.seeds) & set(first.spec.seeds)) < 2:
            raise CompareError("the results have fewer than two seeds in common, and differences are paired by seed")
        for method in result.spec.methods:
            there = found.get(method.name)
            if there is None:
                found[method.name] = Entry(result, method.name)
                continue
            before = next(m for m in there.result.spec.methods if m.name == method.name)
            if changed := before.changed(method):
                raise CompareError(
                    f"both results hold {method.name}, with other settings ({changed}): compare results that agree"
                )
    return found


def difference(task: str, method: Entry, against: Entry) -> Difference:
    """Of two methods at one task. Raises CompareError for a task that one of them was not run on."""
    for entry in (method, against):
        if task not in entry.result.spec.tasks:
            raise CompareError(f"{entry.method} was not run on {task}: compare tasks that both have")
    pairs = [
        (ours, theirs)
        for seed in method.result.spec.seeds
        if (ours := seed_scores(method.result, task, method.method, seed)) is not None
        and (theirs := seed_scores(against.result, task, against.method, seed)) is not None
    ]
    scores = {}
    if len(pairs) > 1:
        scores = {name: interval([ours[name] - theirs[name] for ours, theirs in pairs]) for name in Scores.model_fields}
    return Difference(task=task, method=method.method, against=against.method, n=len(pairs), scores=scores)


def comparison(
    results: Sequence[SuiteResult],
    against: str,
    *,
    methods: Sequence[str] = (),
    tasks: Sequence[str] = (),
    scores: Sequence[str] = ("headline",),
) -> Table:
    """All methods (or some) against one, at the tasks that all results have (or some of them).

    Raises CompareError as `entries`, and for names that are not there."""
    found = entries(results)
    common = [name for name in results[0].spec.tasks if all(name in result.spec.tasks for result in results)]
    for kind, names, known in (
        ("method", [against, *methods], list(found)),
        ("task", tasks, common),
        ("score", scores, list(Scores.model_fields)),
    ):
        for name in names:
            if name not in known:
                raise CompareError(f"the results have no {kind} {name!r} in common: {nearest(name, known)}")
    rows = []
    for task in tasks or common:
        for name in methods or [name for name in found if name != against]:
            of = difference(task, found[name], found[against])
            rows.append([task, name, str(of.n), *(of.scores.get(score) for score in scores)])
    caption = (
        f"Difference to {against} at the layer's own L0, paired by seed: mean and 95 % interval (Student's t) over the "
        f"seeds at which both reach it, {RANGE}; a dash where fewer than two do."
    )
    return Table(["task", "method", "seeds", *scores], rows, caption)
