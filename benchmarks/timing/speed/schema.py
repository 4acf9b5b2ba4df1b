"""The typed result of `faithfulness bench speed`."""

from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.results.schema import Record, Result


class Size(Record):
    """One transcoder, one SwiGLU layer, one batch."""

    name: str
    d: int = Field(ge=2, description="width of the layer's inputs and outputs")
    d_mlp: int = Field(ge=1, description="hidden width of the SwiGLU layer")
    d_sae: int = Field(ge=1, description="features")
    k: int = Field(ge=1, description="features active per row (TopK)")
    batch: int = Field(ge=2, description="rows a step")
    slow_arms: bool = Field(default=True, description="whether the arms that take seconds fit into memory, and are run")


class SpeedConfig(Record):
    """What is timed, and how often."""

    sizes: tuple[Size, ...] = Field(min_length=1)
    rounds: int = Field(ge=1, description="every arm is run once a round, in an order of its own each round")
    slow_rounds: int = Field(ge=1, description="of these, rounds that also run the arms that take seconds")
    coordinates: int = Field(ge=1, description="output coordinates timed of one backward pass per coordinate")
    jacobian_rows: int = Field(ge=2, description="rows of the exact Jacobians by vmap(jacrev); Gram takes the batch")
    seed: int = Field(ge=0, lt=2**62)
    device: Literal["cpu", "cuda"]
    threads: int = Field(ge=1, description="CPU threads of torch")


class Timing(Record):
    """One arm at one size."""

    arm: str
    seconds: list[float] = Field(
        description="of each round; of a step (a forward and a backward pass), of an exact cosine a row"
    )
    median: float


class Ratio(Record):
    """Of two arms, paired by round."""

    name: str
    numerator: str
    denominator: str
    median: float = Field(description="over rounds of time / time; of memory: of the peaks")
    low: float = Field(description="lower quartile")
    high: float = Field(description="upper quartile")


class Memory(Record):
    """Peak memory of a fresh process that makes a few steps of one arm."""

    arm: str
    mebibytes: float = Field(description="CPU: the process's resident memory; GPU: what torch had allocated there")


class SizeResult(Record):
    """Everything at one size."""

    size: str
    timings: list[Timing]
    ratios: list[Ratio]
    memory: list[Memory]


class SpeedResult(Result):
    """All sizes, or as many as were run."""

    benchmark: Literal["speed"] = "speed"
    schema_version: Literal[1] = 1
    config: SpeedConfig
    processor: str
    sizes: list[SizeResult]

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {**self.config.model_dump(), "processor": self.processor, "device": self.environment.device}
