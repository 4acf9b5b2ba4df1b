"""Scores at the layer's own L0, by which methods are compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from faithfulness_plugin.benchmarks.note.crossing import crossing
from faithfulness_plugin.benchmarks.suite.sweep import SweepResult
from faithfulness_plugin.results.intervals import interval
from faithfulness_plugin.results.schema import Interval

NEAR = 0.05
"""A sweep that does not pass the layer's L0 reaches it where it comes within this share of it."""


@dataclass(frozen=True)
class AtLayerL0:
    """One method at one task."""

    n: int
    """Seeds that have scores."""
    reached: int
    """Seeds whose sweep reaches the layer's L0."""
    failed: int
    """Trials without scores."""
    scores: Mapping[str, Interval]
    """Over the seeds that reach it; empty where fewer than half do."""
    headline: str
    """The name of the score that `nearest` has."""
    nearest: tuple[float, float] | None
    """Means of L0 and headline over each seed's nearest trial; None where no trial has scores."""

    @property
    def seeds(self) -> str:
        """How many seeds reach the layer's L0, and what failed."""
        return f"{self.reached} of {self.n}" + (f", {self.failed} trials failed" if self.failed else "")

    def cell(self, score: str) -> Interval | str | None:
        """Choose what a table shows of a score. Where the L0 is not reached, the headline's cell says what is nearest.

        Args:
            score: a field of `Scores`.

        Returns:
            The score's interval, words, or None for an empty cell.
        """
        if self.scores:
            return self.scores[score]
        if score != self.headline or self.nearest is None:
            return None
        l0, headline = self.nearest
        return f"not reached ({headline:.3f} at L0 {l0:.2f})"


def at_layer_l0(result: SweepResult, task: str, method: str) -> AtLayerL0:
    """Read the scores of a method where each seed's sweep passes the layer's L0.

    Linearly between the two transcoders on either side (of several passages, the one with the lowest FVU), or at the
    nearest one where that is within 5 %.

    Args:
        result: complete or partial.
        task: the task's name.
        method: the method's name.

    Returns:
        Intervals over seeds, and how many seeds reach the L0.
    """
    target = result.layer_l0[task]
    seeds = [seed for seed in result.seeds if result.scored(task, method, seed)]
    reached = [scores for seed in seeds if (scores := seed_scores(result, task, method, seed)) is not None]
    enough = reached and 2 * len(reached) >= len(seeds)
    nearest = [
        min((t.scores for t in result.scored(task, method, seed) if t.scores), key=lambda s: abs(s.l0 - target))
        for seed in seeds
    ]
    return AtLayerL0(
        n=len(seeds),
        reached=len(reached),
        failed=sum(t.task == task and t.method == method and t.scores is None for t in result.trials),
        scores={name: interval([s[name] for s in reached]) for name in result.score_names} if enough else {},
        headline=result.headline,
        nearest=_means(nearest, result.headline) if nearest else None,
    )


def seed_scores(result: SweepResult, task: str, method: str, seed: int) -> Mapping[str, float] | None:
    """Read one seed's scores at the layer's L0.

    Args:
        result: complete or partial.
        task: the task's name.
        method: the method's name.
        seed: which sweep.

    Returns:
        Scores by name; None where the sweep does not reach it.
    """
    sweep = [t.scores.model_dump() for t in result.scored(task, method, seed) if t.scores is not None]
    target = result.layer_l0[task]
    place = crossing([s["l0"] for s in sweep], target, [s["fvu"] for s in sweep])
    passed = [] if place is None else [{name: place.read([s[name] for s in sweep]) for name in result.score_names}]
    near = [s for s in sweep if abs(s["l0"] - target) <= NEAR * target]
    if result.near_counts:
        return min([*passed, *near], key=lambda s: s["fvu"], default=None)
    return passed[0] if passed else min(near, key=lambda s: abs(s["l0"] - target), default=None)


def _means(scores: Sequence[Any], headline: str) -> tuple[float, float]:
    return float(np.mean([s.l0 for s in scores])), float(np.mean([getattr(s, headline) for s in scores]))
