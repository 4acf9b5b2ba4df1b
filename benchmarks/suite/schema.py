"""What a run of the benchmark is given, and what it writes."""

from functools import cached_property
from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.benchmarks.suite.scores import Scores
from faithfulness_plugin.results.schema import Record, Result

SUITE_VERSION = 1
"""Version of tasks, scores and baselines: numbers of different versions cannot be compared."""
SEEDS = (11, 23, 37, 41, 59, 67, 73, 89, 97, 103, 109, 127, 139, 149, 151, 163, 179, 181, 193, 199)
"""Frozen: a run with n seeds takes the first n."""


class Trial(Record):
    """One transcoder (for a task of several hops, one a hop) to be trained and scored."""

    task: str
    method: str
    strength: float
    seed: int

    @property
    def key(self) -> tuple[str, str, float, int]:
        """Identifies the trial in a result."""
        return self.task, self.method, self.strength, self.seed


class TrialRecord(Trial):
    """The outcome of a trial."""

    scores: Scores | None = None
    failed: str | None = Field(default=None, description="why there are no scores")
    seconds: float = Field(
        description="seconds of training and scoring; a share of them where several were trained together"
    )


class MethodSpec(Record):
    """A method as it was run."""

    name: str
    strengths: list[float] = Field(min_length=1)
    source: str = Field(description='"baseline", or the digest of the file in which an outside method stands')
    settings: dict[str, Any] = Field(default_factory=dict, description="all settings of a baseline")

    @property
    def decisive(self) -> dict[str, Any]:
        """Everything but the name."""
        return {**self.settings, "strengths": self.strengths, "source": self.source}


class SuiteSpec(Record):
    """Everything that decides a run's numbers."""

    suite_version: int = SUITE_VERSION
    tasks: list[str] = Field(min_length=1)
    methods: list[MethodSpec] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    n_steps: int = Field(ge=20, description="optimizer steps of the baselines")
    time_limit: float = Field(gt=0, description="seconds that one trial of an outside method may take")

    @property
    def trials(self) -> list[Trial]:
        """All trials, task by task and method by method, the seed changing fastest."""
        return [
            Trial(task=task, method=method.name, strength=strength, seed=seed)
            for task in self.tasks
            for method in self.methods
            for strength in method.strengths
            for seed in self.seeds
        ]


class SuiteResult(Result):
    """A whole run, or as much of it as is done, in the spec's order."""

    benchmark: Literal["faithfulness"] = "faithfulness"
    schema_version: Literal[1] = 1
    spec: SuiteSpec
    layer_l0: dict[str, float] = Field(description="the layers' own effective L0, by task")
    trials: list[TrialRecord]

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return self.spec.model_dump()

    def scored(self, task: str, method: str, seed: int | None = None) -> list[TrialRecord]:
        """Look up trials that have scores.

        Args:
            task: the task's name.
            method: the method's name.
            seed: one seed; None for all.

        Returns:
            The trials, by strength.
        """
        return [trial for trial in self._scored.get((task, method), []) if seed in (None, trial.seed)]

    def with_trials(self, trials: list[TrialRecord]) -> "SuiteResult":
        """Build the result of the same spec with other trials.

        Args:
            trials: in any order.

        Returns:
            The result, its trials in the spec's order.
        """
        order = {trial.key: n for n, trial in enumerate(self.spec.trials)}
        trials = sorted(trials, key=lambda trial: order[trial.key])
        complete = len(trials) == len(order)
        return SuiteResult(**{**dict(self), "trials": trials, "complete": complete})  # model_copy would keep the cache

    @cached_property
    def _scored(self) -> dict[tuple[str, str], list[TrialRecord]]:
        found: dict[tuple[str, str], list[TrialRecord]] = {}
        for trial in sorted(self.trials, key=lambda t: t.strength):
            if trial.scores is not None:
                found.setdefault((trial.task, trial.method), []).append(trial)
        return found
