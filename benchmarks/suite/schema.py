"""What a run of the benchmark is given, and what it writes."""

from typing import Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.benchmarks.suite.sweep import SweepResult
from faithfulness_plugin.results.schema import Record, Result

SUITE_VERSION = 1
"""Version of tasks, scores and baselines: numbers of different versions cannot be compared."""
SEEDS = (11, 23, 37, 41, 59, 67, 73, 89, 97, 103, 109, 127, 139, 149, 151, 163, 179, 181, 193, 199)
"""Frozen: a run with n seeds takes the first n."""


class Scores(Record):
    """One transcoder's scores (for a task of several hops the mean over hops, but for the headline). Rows hold no
    points unless said otherwise."""

    headline: float = Field(
        description="Share of the mechanism kept: 1 for the layer's own circuits, 0 for the shortcut; more is better. "
        "(1 - memorization) (1 - FVU), each not below 0; for a layer that memorises, memorization is replaced by the "
        "distance from the layer's own, in units of it; for the shuffled layer, circuits_f1; a product over hops"
    )
    memorization: float = Field(
        description="m as a fraction of its maximum, mean over the repeated points; 0 says that no feature serves a "
        "point alone, 1 that one feature serves each; less is better, unless the layer itself memorises"
    )
    circuits_f1: float = Field(
        description="Harmonic mean of precision (recovered circuits / live features) and recall (recovered / all "
        "circuits), on rows with points; recovered is a circuit whose matched feature has a cosine of .9; 1 is best"
    )
    l0: float = Field(description="Effective L0: features per row that write more than 1 % of the rms output norm")
    l0_gap: float = Field(description="l0 - the layer's own, in features per row; 0 is best")
    jacobian_error: float = Field(
        description="E||(J_f - J_t) u||^2 / E||J_f u||^2 over the latents' directions u along which the layer has a "
        "derivative; 0 is best, 1 says that nothing of the Jacobian is there"
    )
    response_error: float = Field(
        description="E||D_t - D_f||^2 / E||D_f||^2 for isotropic steps of half the rms coordinate; 0 is best"
    )
    response_error_data: float = Field(description="The same half-way to another row; 0 is best")
    fvu: float = Field(description="Fraction of variance unexplained; 0 is best")
    fvu_shifted: float = Field(description="The same on rows of another density, without training on them; 0 is best")
    dead_fraction: float = Field(description="Share of features that never fire; a diagnosis, no score")


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


class SuiteResult(SweepResult, Result):
    """A whole run, or as much of it as is done, in the spec's order."""

    headline: ClassVar[str] = "headline"

    benchmark: Literal["faithfulness"] = "faithfulness"
    schema_version: Literal[1] = 1
    spec: SuiteSpec
    layer_l0: dict[str, float] = Field(description="the layers' own effective L0, by task")
    trials: list[TrialRecord]

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return self.spec.model_dump()

    @override
    def enlarged(self, fresh: "SuiteResult") -> "SuiteResult | None":
        seeds, wanted = self.spec.seeds, fresh.spec.seeds
        if seeds != wanted[: len(seeds)] or {**self.settings, "seeds": wanted} != fresh.settings:
            return None
        return fresh.model_copy(update={"environment": self.environment}).with_trials(self.trials)

    @property
    @override
    def seeds(self) -> list[int]:
        return self.spec.seeds

    @property
    @override
    def score_names(self) -> list[str]:
        return list(Scores.model_fields)

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
