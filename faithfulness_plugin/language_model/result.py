"""Results of `faithfulness train`."""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.language_model.config import TrainConfig
from faithfulness_plugin.language_model.plan import PlannedTranscoder
from faithfulness_plugin.language_model.rows import RowsRecord
from faithfulness_plugin.results.schema import Record, Result


class Evaluation(Record):
    """A transcoder on the held-out prompts."""

    name: str
    step: int
    tokens: int = Field(description="tokens that it was trained on by then")
    fvu: float
    l0: float
    dead_fraction: float
    jacobian_error: float = Field(description="relative, isotropic")
    jacobian_cosine: float
    jacobian_error_data: float = Field(description="relative, in directions in which the inputs vary")
    jacobian_cosine_data: float
    ce: float = Field(description="nats a token, with the transcoder in the layer's place")
    ce_clean: float
    ce_zero: float = Field(description="nats a token, with zeros in the layer's place")
    ce_recovered: float | None
    kl: float = Field(description="nats a token, of the model's next token from that with the transcoder")


class TrainedTranscoder(Record):
    """One transcoder of a run."""

    name: str
    block: int
    coefficient: float
    seed: int
    hook_in: str
    hook_out: str
    evaluations: list[Evaluation] = Field(description="the first before training, the last after it")
    arm: str | None = Field(
        default=None, exclude_if=lambda arm: arm is None, description="where the settings name arms"
    )

    @property
    def label(self) -> str:
        """The arm in tables: its name, or its coefficient."""
        return f"{self.coefficient:g}" if self.arm is None else self.arm


class StepCost(Record):
    """Where the time of training on one token goes, in microseconds: medians over rounds."""

    model: float = Field(description="to make the layer's input")
    layer: float = Field(description="its output, and with the term its derivative")
    transcoder: float = Field(description="the rest of the training step")

    @property
    def tokens_per_second(self) -> float:
        """The throughput of a run of one such transcoder."""
        return 1e6 / (self.model + self.layer + self.transcoder)


class Speed(Record):
    """A step with and without the Jacobian term, timed in turns."""

    rounds: int
    threads: int
    without: StepCost
    matched: StepCost

    @property
    def slow_down(self) -> float:
        """The factor by which the term slows the whole run down."""
        return self.without.tokens_per_second / self.matched.tokens_per_second


class TrainResult(Result):
    """The result of one run."""

    schema_version: Literal[1] = 1
    model: str
    config: TrainConfig
    from_stores: bool = Field(default=False, description="trained from stores of derivatives, not from the model")
    rows: list[RowsRecord] = Field(
        default_factory=list, exclude_if=lambda rows: not rows, description="which held-out rows count, layer by layer"
    )
    all_blocks: list[int] = Field(
        default_factory=list,
        exclude_if=lambda blocks: not blocks,
        description="the blocks of the model that have an MLP, where the settings say all",
    )
    transcoders: list[TrainedTranscoder] = Field(default_factory=list)
    speed: Speed | None = Field(
        default=None, description="speed of the first transcoder with the term, if there is one"
    )
    peak_memory: int | None = Field(default=None, description="peak memory of the process, in bytes")

    @property
    def blocks(self) -> list[int]:
        """The blocks whose MLPs are replaced; none while `all` stands for blocks that are not known."""
        return self.all_blocks if isinstance(self.config.blocks, str) else self.config.blocks

    @property
    def planned(self) -> list[PlannedTranscoder]:
        """The transcoders that are to be trained."""
        return self.config.planned(self.blocks)

    @property
    @override
    def settings(self) -> dict[str, Any]:
        free: dict[str, Any] = {"text": {"repeat"}, "wandb": True, "checkpoints": True, "prefetch": True}
        # left out of the config where they are the defaults
        whole = {"rows": self.config.rows.model_dump(), "stores": self.config.stores.model_dump()}
        return {**self.config.model_dump(mode="json", exclude=free), **whole, "from stores": self.from_stores}


def with_blocks(result: TrainResult, found: Iterable[int]) -> TrainResult:
    """Note the blocks that a model has, where the settings say all.

    Args:
        result: the run's.
        found: blocks with an MLP.

    Returns:
        The result with its blocks.
    """
    return result.model_copy(update={"all_blocks": list(found)}) if isinstance(result.config.blocks, str) else result
