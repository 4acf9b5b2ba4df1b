"""Scores at the layer's own L0: what methods are compared by."""

from collections.abc import Mapping

from pydantic import Field

from faithfulness_plugin.benchmarks.note.crossing import crossing
from faithfulness_plugin.benchmarks.suite.schema import SuiteResult
from faithfulness_plugin.benchmarks.suite.scores import Scores
from faithfulness_plugin.results.intervals import interval
from faithfulness_plugin.results.schema import Interval, Record

NEAR = 0.05
"""A sweep that does not pass the layer's L0 reaches it where it comes within this share of it."""


class AtLayerL0(Record):
    """One method at one task."""

    task: str
    method: str
    n: int = Field(description="seeds that have scores")
    reached: int = Field(description="seeds whose sweep reaches the layer's L0")
    scores: dict[str, Interval] = Field(description="over the seeds that reach it; empty where fewer than half do")
    nearest_l0: float | None = Field(description="where it is not reached: the mean of the nearest L0 of each seed")
    nearest_headline: float | None = Field(description="the mean headline there")
    failed: int = Field(description="trials without scores")


def at_layer_l0(result: SuiteResult, task: str, method: str) -> AtLayerL0:
    """Each seed's sweep is read where its L0 passes the layer's, linearly between the two transcoders on either side
    (of several passages the one with the lowest FVU), or at the nearest one where that is within 5 %. Fewer than half
    of the seeds: not reached."""
    by_seed = {seed: seed_scores(result, task, method, seed) for seed in result.spec.seeds}
    there = [seed for seed in result.spec.seeds if result.of(task, method, seed)]
    reached = [scores for scores in by_seed.values() if scores is not None]
    failed = sum(t.task == task and t.method == method and t.scores is None for t in result.trials)
    record = {"task": task, "method": method, "n": len(there), "reached": len(reached), "failed": failed}
    if reached and 2 * len(reached) >= len(there):
        intervals = {name: interval([scores[name] for scores in reached]) for name in Scores.model_fields}
        return AtLayerL0(**record, scores=intervals, nearest_l0=None, nearest_headline=None)
    target = result.layer_l0[task]
    nearest = [
        min((t.scores for t in result.of(task, method, seed) if t.scores), key=lambda s: abs(s.l0 - target))
        for seed in there
    ]
    return AtLayerL0(
        **record,
        scores={},
        nearest_l0=sum(s.l0 for s in nearest) / len(nearest) if nearest else None,
        nearest_headline=sum(s.headline for s in nearest) / len(nearest) if nearest else None,
    )


def seed_scores(result: SuiteResult, task: str, method: str, seed: int) -> Mapping[str, float] | None:
    """One seed's scores at the layer's L0, or None where its sweep does not reach it."""
    sweep = [t.scores.model_dump() for t in result.of(task, method, seed) if t.scores is not None]
    target = result.layer_l0[task]
    if not sweep:
        return None
    place = crossing([s["l0"] for s in sweep], target, [s["fvu"] for s in sweep])
    if place is not None:
        return {name: place.read([s[name] for s in sweep]) for name in Scores.model_fields}
    nearest = min(sweep, key=lambda s: abs(s["l0"] - target))
    return nearest if abs(nearest["l0"] - target) <= NEAR * target else None
