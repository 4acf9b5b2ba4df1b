"""What is measured of a transcoder of a language model's layer."""

from typing import Literal

from pydantic import Field

from faithfulness_plugin.results.schema import Record

Directions = Literal["isotropic", "data", "difference"]
"""Of Jacobians: all alike; those in which the inputs vary (pairs of them); differences to other inputs."""
DIRECTIONS: tuple[Directions, ...] = ("isotropic", "data", "difference")
ByPrompt = list[float]
"""A sum over the rows of each held-out prompt."""


class LayerRecord(Record):
    """One layer on the held-out prompts: what errors are divided by."""

    block: int
    hook_in: str
    hook_out: str
    variance: ByPrompt = Field(description="||f - E f||^2")
    jacobian: dict[Directions, ByPrompt] = Field(description="||J_f R||_F^2")
    response: dict[Directions, list[ByPrompt]] = Field(description="||f(x + eps v) - f(x)||^2, a list each distance")
    ce_clean: float = Field(description="nats a token")
    ce_zero: float = Field(description="with zeros in the layer's place")


class PassageRecord(Record):
    """A transcoder at the tokens of the passage."""

    share: float = Field(description="of the output there that features carry which fire there alone")
    own_features: int = Field(description="how many these are")
    fvu: float = Field(description="||t - f||^2 / ||f - E f||^2 there")
    rate_elsewhere: list[float] = Field(description="of these, and of others that carry 1 % there or more")
    carried: list[float] = Field(description="by each of these")


class Measured(Record):
    """One transcoder on the held-out prompts."""

    error: ByPrompt = Field(description="||t - f||^2")
    l0: float
    dead_fraction: float
    jacobian_error: dict[Directions, ByPrompt] = Field(description="||(J_t - J_f) R||_F^2")
    jacobian_cosine: dict[Directions, float]
    floor: dict[Directions, ByPrompt] = Field(description="what (J_f - W_skip) R has beyond the active features")
    response_error: dict[Directions, list[ByPrompt]] = Field(description="||D_t - D_f||^2, a list each distance")
    response_cosine: dict[Directions, list[float]] = Field(description="one each distance")
    ce: float = Field(description="nats a token, with the transcoder in the layer's place")
    ce_recovered: float | None
    kl: float
    passage: PassageRecord | None
