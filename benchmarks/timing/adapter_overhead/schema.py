"""What `faithfulness bench adapter` writes."""

from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.results.schema import Record, Result

COEFFICIENT = 0.5
TOKENS = 128
"""Of each prompt."""
BLOCK = 10
"""Of the examples' model, whose MLP is replaced."""


class OverheadConfig(Record):
    """One layer, one TopK transcoder, and how often it is trained."""

    library: Literal["sparsify", "dictionary_learning"]
    d: int = Field(default=576, ge=2, description="width of the layer's inputs and outputs")
    d_mlp: int = Field(default=1536, ge=1, description="hidden width of its SwiGLU layer")
    d_sae: int = Field(default=4608, ge=1, description="features")
    k: int = Field(default=32, ge=1, description="features active a row")
    rows: int = Field(default=1024, ge=2, description="a step")
    n_steps: int = Field(default=4, ge=1, description="of each arm in each round")
    rounds: int = Field(default=5, ge=1, description="every arm once a round, in turns")
    threads: int = Field(ge=1, description="CPU threads of torch")


class Timings(Record):
    """Seconds a step, round by round."""

    alone: list[float] = Field(description="the library's trainer")
    matched: dict[str, list[float]] = Field(description="with the term, by estimator and probe")


class OverheadResult(Result):
    """What a step takes."""

    schema_version: Literal[1] = 1
    config: OverheadConfig
    processor: str
    step: Timings | None = Field(default=None, description="next to no model: rows at hand, or a model of one block")
    loop: Timings | None = Field(default=None, description="with the run of the examples' model, as users train")

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json")
