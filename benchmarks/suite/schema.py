"""The typed result of `faithfulness bench run`."""

from functools import cached_property
from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import override

from faithfulness_plugin.benchmarks.suite.scores import Scores
from faithfulness_plugin.differences import differences
from faithfulness_plugin.results.schema import Record, Result

SUITE_VERSION = 1
"""Of tasks, scores and baselines: numbers of different versions cannot be compared."""
SEEDS = (11, 23, 37, 41, 59, 67, 73, 89, 97, 103, 109, 127, 139, 149, 151, 163, 179, 181, 193, 199)
"""Frozen: a run takes the first so many."""


class Trial(Record):
    """One transcoder (one a hop) to be trained and scored."""

    task: str
    method: str
    strength: float
    seed: int

    @property
    def key(self) -> tuple[str, str, float, int]:
        """What it is told from others by."""
        return self.task, self.method, self.strength, self.seed


class TrialRecord(Trial):
    """What became of it."""

    scores: Scores | None = None
    failed: str | None = Field(default=None, description="why there are no scores")
    seconds: float = Field(description="of training and scoring, a share where several were trained together")


class MethodSpec(Record):
    """A method as it was run."""

    name: str
    strengths: list[float] = Field(min_length=1)
    source: str = Field(description='"baseline", or the digest of the file in which an outside method stands')
    settings: dict[str, Any] = Field(default_factory=dict, description="of a baseline, all of them")

    def changed(self, now: "MethodSpec") -> str:
        """What is different in another method of this name; "" for nothing."""
        each = [{**m.settings, "strengths": m.strengths, "source": m.source} for m in (self, now)]
        return differences(*each)


class SuiteSpec(Record):
    """All that decides a run's numbers."""

    suite_version: int = SUITE_VERSION
    tasks: list[str] = Field(min_length=1)
    methods: list[MethodSpec] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    n_steps: int = Field(ge=20, description="optimizer steps of the baselines")
    time_limit: float = Field(gt=0, description="seconds that one trial of an outside method may take")

    @model_validator(mode="after")
    def _once(self) -> "SuiteSpec":
        for name, values in (("tasks", self.tasks), ("methods", [m.name for m in self.methods]), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: one is there twice")
        return self

    @property
    def trials(self) -> list[Trial]:
        """All, task by task and method by method, the seed changing fastest."""
        return [
            Trial(task=task, method=method.name, strength=strength, seed=seed)
            for task in self.tasks
            for method in self.methods
            for strength in method.strengths
            for seed in self.seeds
        ]


class SuiteResult(Result):
    """A whole run, or as much of it as was done, in the spec's order."""

    benchmark: Literal["faithfulness"] = "faithfulness"
    schema_version: Literal[1] = 1
    spec: SuiteSpec
    layer_l0: dict[str, float] = Field(description="the layers' own effective L0, by task")
    trials: list[TrialRecord]

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return self.spec.model_dump()

    def missing(self) -> list[Trial]:
        """What has not been run yet."""
        done = {record.key for record in self.trials}
        return [trial for trial in self.spec.trials if trial.key not in done]

    def of(self, task: str, method: str, seed: int | None = None) -> list[TrialRecord]:
        """Those of a task and a method that have scores, by strength; of one seed, where it is given."""
        return [t for t in self._scored.get((task, method), []) if seed in (None, t.seed)]

    def with_trials(self, trials: list[TrialRecord], *, complete: bool) -> "SuiteResult":
        """The same of these trials."""
        return SuiteResult(**{**dict(self), "trials": trials, "complete": complete})  # a copy would keep the index

    @cached_property
    def _scored(self) -> dict[tuple[str, str], list[TrialRecord]]:
        found: dict[tuple[str, str], list[TrialRecord]] = {}
        for record in sorted(self.trials, key=lambda t: t.strength):
            if record.scores is not None:
                found.setdefault((record.task, record.method), []).append(record)
        return found
