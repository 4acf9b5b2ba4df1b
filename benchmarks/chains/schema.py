"""What the second track writes."""

from typing import Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.benchmarks.chains.config import ChainsConfig
from faithfulness_plugin.benchmarks.suite.schema import MethodSpec, Trial
from faithfulness_plugin.benchmarks.suite.sweep import SweepResult
from faithfulness_plugin.results.schema import Record, Result


class ChainScores(Record):
    """Scores of one cross-layer transcoder, or of one transcoder for each layer, on rows without points."""

    hops_kept: float = Field(
        description="mean over layers m after the first of sum over l of min(s_lm, s*_lm): s_lm is the share of what "
        "is written to layer m that features reading layer l write, s*_lm the chain's; 1 is best, and 0 says that "
        "layers are skipped"
    )
    edge_precision: float = Field(
        description="share of the feature graph's edges that the chain has; features stand for units whose activations "
        "have a cosine of .9 with theirs; 1 is best"
    )
    edge_recall: float = Field(description="share of the chain's edges that the feature graph has; 1 is best")
    fvu: float = Field(description="fraction of variance unexplained of all layers' outputs together; 0 is best")
    fvu_last: float = Field(description="the same of the last layer's output alone")
    l0: float = Field(
        description="effective L0 of all layers together: features a row that write more than 1 % of the rms output"
    )


class ChainTrial(Trial):
    """One cross-layer transcoder to be trained and scored."""


class ChainTrialRecord(ChainTrial):
    """The outcome of a trial."""

    scores: ChainScores | None = None
    failed: str | None = Field(default=None, description="why there are no scores")
    seconds: float = Field(description="CPU seconds; a share of them where several were trained together")


class ChainsResult(SweepResult, Result):
    """A whole run, or as much of it as is done, in the config's order."""

    headline: ClassVar[str] = "hops_kept"
    near_counts: ClassVar[bool] = True

    benchmark: Literal["chains"] = "chains"
    schema_version: Literal[1] = 1
    config: ChainsConfig
    methods: list[MethodSpec]
    layer_l0: dict[str, float] = Field(description="the chains' own effective L0, by task")
    trials: list[ChainTrialRecord]

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {**self.config.model_dump(), "described": [method.model_dump() for method in self.methods]}

    @property
    @override
    def seeds(self) -> tuple[int, ...]:
        return self.config.chosen_seeds

    @property
    @override
    def score_names(self) -> list[str]:
        return list(ChainScores.model_fields)

    @property
    def planned(self) -> list[ChainTrial]:
        """All trials, task by task and method by method, the seed changing fastest."""
        return [
            ChainTrial(task=task, method=method.name, strength=strength, seed=seed)
            for task in self.config.tasks
            for method in self.methods
            for strength in method.strengths
            for seed in self.seeds
        ]

    def with_trials(self, trials: list[ChainTrialRecord]) -> "ChainsResult":
        """Build the result with other trials.

        Args:
            trials: in any order.

        Returns:
            The result, its trials in the config's order.
        """
        order = {trial.key: n for n, trial in enumerate(self.planned)}
        trials = sorted(trials, key=lambda trial: order[trial.key])
        return ChainsResult(**{**dict(self), "trials": trials, "complete": len(trials) == len(order)})
