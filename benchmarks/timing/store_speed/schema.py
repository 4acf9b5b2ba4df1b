"""What `faithfulness bench store` writes."""

from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.language_model.config import ModelSource, TextSource
from faithfulness_plugin.language_model.rows import EVERY_ROW, RowSettings
from faithfulness_plugin.results.schema import Record, Result


class StoreSpeedConfig(Record):
    """What is timed."""

    model: ModelSource = ModelSource()
    text: TextSource = TextSource()
    block: int = Field(default=10, ge=0)
    d_sae: int = Field(default=2304, ge=1)
    k: int = Field(default=32, ge=1)
    prompts: int = Field(default=128, ge=2, description="in the store")
    prompts_per_shard: int = Field(default=32, ge=1)
    context_size: int = Field(default=128, ge=2)
    prompts_per_pass: int = Field(default=8, ge=1)
    batch_size: int = Field(default=512, ge=2, description="rows a step")
    n_steps: int = Field(default=40, ge=1)
    together_batch_size: int = Field(
        default=4096, ge=2, description="rows a step, of all processes that train together"
    )
    together_steps: int = Field(default=12, ge=1)
    rounds: int = Field(default=3, ge=1, description="of both, in turns")
    threads: int = Field(ge=1, description="of torch, in all; two processes have half of them each")
    seed: int = 0

    @property
    def rows(self) -> RowSettings:
        """Which rows count."""
        return EVERY_ROW

    @property
    def device(self) -> str:
        """Where it runs."""
        return "cpu"


class Together(Record):
    """Training in some processes."""

    processes: int
    threads: int = Field(description="a process")
    rows_per_second: float
    losses: list[float] = Field(description="of every step")


class StoreSpeedResult(Result):
    """One measurement."""

    schema_version: Literal[1] = 1
    model: str
    processor: str
    config: StoreSpeedConfig
    filling: float | None = Field(default=None, description="rows a second, model and derivatives included")
    bytes_per_row: float | None = None
    from_store: list[float] = Field(default_factory=list, description="tokens a second, each round")
    from_model: list[float] = Field(default_factory=list, description="tokens a second, each round")
    difference: float | None = Field(
        default=None,
        description="between the weights of a transcoder trained from the store and of one whose layer was asked again "
        "at the same rows and probes: the largest, relative to the largest weight",
    )
    together: list[Together] = Field(default_factory=list)

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json")
