"""The typed result of `faithfulness bench ensemble`."""

from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.results.schema import Record, Result


class EnsembleSpeedConfig(Record):
    """What is timed. Transcoders, data and batches are those of `faithfulness reproduce`."""

    n_models: int = Field(default=30, ge=2, description="transcoders, in the ensemble and in the loop")
    n_steps: int = Field(default=200, ge=20, description="steps of each")
    rounds: int = Field(default=5, ge=1, description="every arm is run once a round")
    line: tuple[int, ...] = Field(default=(4, 8, 16, 32, 64), min_length=3, description="ensemble sizes of the line")
    peak_size: int = Field(default=2048, ge=64, description="width of the square matrices of the peak")
    seed: int = Field(default=0, ge=0, lt=2**62)
    threads: int = Field(ge=1, description="CPU threads of torch, for both")


class Quartiles(Record):
    """Over rounds."""

    median: float
    low: float
    high: float


class Compared(Record):
    """One objective."""

    objective: str
    loop: Quartiles = Field(description="milliseconds a model and step, set-up included, of train_transcoder in a loop")
    ensemble: Quartiles = Field(description="the same of train_ensemble")
    ratio: Quartiles = Field(description="loop / ensemble, paired by round")
    gigaflops: Quartiles = Field(description="of the ensemble's matrix products alone, over all of its time")
    share_of_peak: Quartiles = Field(description="of the rate of one large matrix product, measured in the same round")


class Line(Record):
    """Seconds against a number, with a straight line through them (least squares)."""

    over: Literal["models", "steps"]
    numbers: list[int]
    seconds: list[float] = Field(description="medians over rounds")
    slope: float
    intercept: float
    r_squared: float


class EnsembleSpeedResult(Result):
    """The whole benchmark."""

    benchmark: Literal["ensemble-speed"] = "ensemble-speed"
    schema_version: Literal[1] = 1
    config: EnsembleSpeedConfig
    processor: str
    compared: list[Compared]
    lines: list[Line]

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {**self.config.model_dump(), "processor": self.processor}
