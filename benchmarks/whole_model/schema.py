"""The result of the experiment with every layer replaced."""

from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.benchmarks.whole_model.arms import SetArm
from faithfulness_plugin.benchmarks.whole_model.config import SetRun, WholeModelConfig
from faithfulness_plugin.benchmarks.whole_model.truth_of import TruthOf
from faithfulness_plugin.measure.schema import ByPrompt
from faithfulness_plugin.results.schema import Record, Result

GROWS = ("arms", "side_arms", "seeds", "side_seeds")
"""Settings that say which sets there are, and change none of them."""


class LayerSums(Record):
    """One transcoder beside its layer on held-out prompts, sums over the rows of each."""

    block: int
    error: ByPrompt = Field(description="||t - f||^2")
    variance: ByPrompt = Field(description="||f - E f||^2")
    jacobian_error: ByPrompt = Field(description="||(J_t - J_f) R||^2 at some rows, R a root of the inputs' covariance")
    jacobian: ByPrompt = Field(description="||J_f R||^2 there")
    l0: float
    dead_fraction: float


class GraphRecord(Record):
    """The scores of one prompt's graph."""

    prompt: int
    features: int = Field(description="features that fire")
    replacement: float
    completeness: float
    pruned_replacement: float
    pruned_completeness: float
    seconds: float


class SetRecord(Record):
    """One set of transcoders."""

    arm: SetArm
    seed: int
    layers: list[LayerSums]
    ce: ByPrompt = Field(description="nats, with all layers replaced: sums over each held-out prompt's tokens")
    kl: ByPrompt = Field(description="nats, of the model's next token from that with all layers replaced")
    agreed: ByPrompt = Field(description="tokens at which both models' likeliest next token is the same")
    with_errors: float = Field(
        description="largest difference of a logit from the model's with error nodes, relative to their rms"
    )
    truth: list[TruthOf]
    graphs: list[GraphRecord] = Field(default_factory=list)
    seconds: float | None = Field(description="of training, this call's part of it; None where nothing was trained")

    @property
    def run(self) -> SetRun:
        """The run that this is the record of."""
        return SetRun(self.arm, self.seed)


class WholeModelResult(Result):
    """All sets, or as many as were made."""

    benchmark: Literal["whole model"] = "whole model"
    schema_version: Literal[1] = 1
    model: str
    config: WholeModelConfig
    blocks: list[int] = Field(default_factory=list, description="whose MLPs are replaced")
    missing: list[int] = Field(default_factory=list, description="the model's other blocks, which stay as they are")
    ce_clean: ByPrompt = Field(default_factory=list, description="nats, of the model as it is")
    ce_clean_permuted: ByPrompt = Field(
        default_factory=list, exclude_if=lambda ce: not ce, description="nats, of the model with permuted MLPs"
    )
    sets: list[SetRecord] = Field(default_factory=list)

    @property
    @override
    def settings(self) -> dict[str, Any]:
        """All but what may grow: more sets are added to those that exist."""
        config = self.config
        return {**config.model_dump(mode="json", exclude=set(GROWS)), "rows": config.rows.model_dump()}

    def of(self, arm: SetArm) -> list[SetRecord]:
        """Collect the sets of an arm.

        Args:
            arm: which arm.

        Returns:
            Its sets by seed.
        """
        return sorted((of for of in self.sets if of.arm == arm), key=lambda of: of.seed)
