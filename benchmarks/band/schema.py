"""The result of the experiment on a band of layers."""

from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.benchmarks.band.config import BandConfig
from faithfulness_plugin.benchmarks.whole_model.truth_of import TruthOf
from faithfulness_plugin.measure.schema import ByPrompt
from faithfulness_plugin.results.schema import Record, Result


class BandRecord(Record):
    """One transcoder of the band on held-out prompts."""

    arm: str
    seed: int
    parameters: int = Field(description="numbers that are trained")
    l0: float = Field(description="active features of all layers together, a row")
    error: list[ByPrompt] = Field(description="||t - f||^2 of each layer")
    variance: list[ByPrompt] = Field(description="||f - E f||^2 of each layer")
    hops_kept: list[float] = Field(description="of each layer but the first: the share that goes through its features")
    own: list[list[float]] = Field(
        description="of each layer ||(P_mm - J_m) v||^2 and ||J_m v||^2, sums over rows, v differences of rows"
    )
    crossing: list[float] = Field(
        description="of each layer but the first the sum over l < m of ||P_lm v||^2, in the sums' unit of `own`"
    )
    ce: ByPrompt = Field(description="nats, with all layers of the band replaced: sums over each prompt's tokens")
    kl: ByPrompt = Field(description="nats, of the model's next token from that with the band replaced")
    truth: list[TruthOf] = Field(description="predicted beside measured effects, on the prompts of the truth test")
    seconds: float = Field(description="of training, this call's part of it")


class BandResult(Result):
    """All transcoders, or as many as were made."""

    benchmark: Literal["band"] = "band"
    schema_version: Literal[1] = 1
    model: str
    config: BandConfig
    blocks: list[int] = Field(default_factory=list, description="whose MLPs are replaced")
    ce_clean: ByPrompt = Field(default_factory=list, description="nats, of the model as it is")
    records: list[BandRecord] = Field(default_factory=list)

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {**self.config.model_dump(mode="json"), "rows": self.config.rows.model_dump()}
