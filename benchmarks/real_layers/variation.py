"""Changes of an arm that might close the rest of the distance to the floor."""

import operator
from collections.abc import Callable
from typing import Any

from pydantic import Field, model_validator

from faithfulness_plugin.jacobian.estimators import ESTIMATORS
from faithfulness_plugin.results.schema import Record

SECANT_AND_JVP = "secant_and_jvp"
ESTIMATORS[SECANT_AND_JVP] = "faithfulness_plugin.benchmarks.real_layers.secant_and_jvp:SecantAndJvp"


def _optional(description: str, **bounds: Any) -> Any:
    return Field(default=None, exclude_if=lambda value: value is None, description=description, **bounds)


class Variation(Record):
    """What an arm does otherwise than the others; several changes are made together."""

    d_sae: int | None = _optional("features, in place of the config's", ge=1)
    n_probes: int | None = _optional("probes a row and step", ge=2)
    and_jvp: bool = Field(
        default=False, exclude_if=operator.not_, description="secant: jvp along the same probes, at the same weight"
    )
    term_warm_up: float | None = _optional("share of the steps over which the coefficient grows", gt=0, le=1)
    skip_rank: int | None = _optional("the skip connection is a product of two matrices of this rank", ge=1)
    skip_by_term: bool = Field(
        default=False,
        exclude_if=operator.not_,
        description="the skip connection learns from the term alone, not from outputs",
    )
    dead_window: float | None = _optional(
        "share of the steps without firing after which a feature counts as dead", gt=0, le=1
    )

    @model_validator(mode="after")
    def _changes_something(self) -> "Variation":
        if self == Variation.model_construct():
            raise ValueError("vary: nothing is changed: name a change, or leave vary out")
        return self

    @property
    def name(self) -> str:
        """The changes, as tables say them."""
        return ", ".join(say(getattr(self, field)) for field, say in NAMES.items() if getattr(self, field))

    @property
    def of_baseline(self) -> "Variation | None":
        """The changes that skip alone shares: those of the transcoder itself, rather than of the term."""
        return None if self.d_sae is None else Variation(d_sae=self.d_sae)


NAMES: dict[str, Callable[[Any], str]] = {
    "d_sae": "{:,} features".format,
    "n_probes": "{} probes".format,
    "and_jvp": lambda _: "and jvp",
    "term_warm_up": lambda share: f"coefficient grows over {share:g} of the steps",
    "skip_rank": "skip of rank {}".format,
    "skip_by_term": lambda _: "skip from the term alone",
    "dead_window": lambda share: f"dead after {share:g} of the steps",
}
"""What tables say of each field."""
