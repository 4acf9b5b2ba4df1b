"""The typed result of `faithfulness bench inspection`."""

from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.results.schema import Record, Result

Condition = Literal["baseline", "repetition", "repetition, penalty 0.1", "repetition + Jacobian", "repetition + secant"]
CONDITIONS: dict[Condition, dict[str, Any]] = {
    "baseline": {"repeat_frac": 0.0},
    "repetition": {},
    "repetition, penalty 0.1": {"sparsity_coefficient": 0.1},
    "repetition + Jacobian": {"jacobian_coefficient": 10.0, "jitter": 0.5},
    "repetition + secant": {"jacobian_coefficient": 10.0, "estimator": "secant"},
}
"""What differs from the default of `faithfulness reproduce`."""


class ToyScoresConfig(Record):
    """What is scored, and on how many rows."""

    n_seeds: int = Field(default=60, ge=1, description="transcoders of each condition")
    seed: int = Field(default=1000, ge=0, lt=2**61, description="the first; of weights, data and probes")
    n_steps: int = Field(default=4000, ge=1)
    n_rows: int = Field(default=8192, ge=256, description="rows that the features are looked at on")
    truth: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="datapoint features are those whose own m_i is above this part of the maximum",
    )


class Scored(Record):
    """One transcoder on rows drawn as it was trained on, of a seed of their own."""

    condition: Condition
    seed: int
    fvu: float
    l0: float
    true: list[int] = Field(description="datapoint features, by m_i at p")
    flagged: list[int] = Field(description="features whose score reaches the mark")
    first: int | None = Field(description="the feature with the largest score; None where all are 0")
    scores: dict[int, float] = Field(description="of every feature that fires, rounded to 4 decimals")


class ToyScoresResult(Result):
    """The score on transcoders of |x|, where datapoint features are known."""

    benchmark: Literal["inspection-toy"] = "inspection-toy"
    schema_version: Literal[1] = 1
    config: ToyScoresConfig
    flag: float = Field(description="the score from which on a feature is flagged")
    scored: list[Scored]

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {**self.config.model_dump(), "flag": self.flag}


class PassageConfig(Record):
    """Where transcoders come from, and what they are looked at on."""

    transcoders: str = Field(description="result of `faithfulness experiment real-layers` with a repeated passage")
    tokens: int = Field(default=20_000, ge=1000, description="of text, for the score")
    share: float = Field(default=0.05, gt=0, lt=1, description="of the rows that are the passage's")
    cost_tokens: int = Field(default=100_000, ge=1000, description="of text, for what looking costs")
    memory: float = Field(default=2.0, gt=0, description="GiB, as --memory")


class PassageScored(Record):
    """One transcoder of a real layer on text in which a passage is repeated."""

    name: str
    matched: str = Field(description="what it was matched with; none for no term")
    repeated: bool = Field(description="whether the passage was repeated in its training")
    seed: int
    fvu: float
    own: int = Field(description="the passage's own features: firing there, and on 0.1 % of other rows at most")
    live: int = Field(description="features that fire on the sample")
    flagged: int
    auc: float | None = Field(description="of the score for own features among live ones; None where there are none")
    auc_concentration: float | None = Field(description="of the concentration alone")
    own_in_first: int | None = Field(description="of as many first features by score as there are own ones")
    largest: float = Field(description="the largest score of an own feature, or of any where there is none")
    share: float = Field(description="of the passage's output that its own features carry")


class Measured(Record):
    """What the page of one transcoder of a real layer costs."""

    d_sae: int
    tokens: int
    threads: int
    seconds: float = Field(description="of the whole command, start and loading the model included")
    memory: float = Field(description="GiB asked for")
    peak: float = Field(description="GiB of the process, model and transcoder included")
    page_megabytes: float
    load: float | None = Field(description="seconds from opening the page until it answers; None without a browser")
    table: float | None = Field(description="seconds from the click on Features to rows and a feature's details")
    sort: float | None = Field(description="seconds from the click on a column's title to the new order")


class PassageResult(Result):
    """The score on a real layer with a repeated passage, and what looking costs."""

    benchmark: Literal["inspection-passage"] = "inspection-passage"
    schema_version: Literal[1] = 1
    model: str
    processor: str
    config: PassageConfig
    scored: list[PassageScored]
    measured: Measured | None

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {"model": self.model, **self.config.model_dump()}
