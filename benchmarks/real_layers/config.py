"""What `faithfulness bench language-model` runs, and its sizes."""

from itertools import product
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from faithfulness_plugin.benchmarks.real_layers.arms import Arm, Kind
from faithfulness_plugin.measure.held_out_config import HeldOutConfig
from faithfulness_plugin.results.schema import Record

PASSAGE = "The committee agreed that seventeen copper lanterns should hang beneath the northern bridge until spring."


class Run(NamedTuple):
    """One transcoder."""

    block: int
    kind: Kind
    arm: Arm
    seed: int
    repeated: bool
    """Whether the passage is repeated among its rows."""

    @property
    def name(self) -> str:
        return f"block {self.block}, {self.kind.name}, {self.arm.name}{', passage' * self.repeated}, seed {self.seed}"

    @property
    def folder(self) -> str:
        """The name, as a path likes it."""
        return self.name.replace(", ", "_").replace(" ", "-")


class Passage(Record):
    """The repeated passage: which runs see it again and again."""

    text: str = PASSAGE
    share: float = Field(default=0.05, gt=0, lt=1, description="of the training rows")
    blocks: list[int]
    arms: list[Arm]


class RealLayersConfig(HeldOutConfig):
    """One experiment: every block, kind, arm and seed, and the repeated passage."""

    blocks: list[int] = Field(min_length=1)
    kinds: list[Kind] = Field(min_length=1)
    arms: list[Arm] = Field(min_length=1)
    line: list[Kind] = Field(
        default_factory=list, description="trained without a term alone: how errors go with FVU when nothing is matched"
    )
    passage: Passage | None = None
    seeds: int = Field(default=1, ge=1)
    d_sae: int = Field(default=2304, ge=1)
    stored_prompts: int = Field(ge=1, description="whose rows and derivatives are kept; an epoch")
    prompts_per_shard: int = Field(default=64, ge=1)
    stored_dtype: Literal["float16", "bfloat16", "float32", "float64"] = "float16"
    tokens: int = Field(ge=1, description="that every transcoder is trained on")
    batch_size: int = Field(default=512, ge=2)
    lr: float = Field(default=4e-3, gt=0)
    lr_decay_share: float = Field(default=0.2, ge=0, le=1)

    @field_validator("arms")
    @classmethod
    def _has_a_baseline(cls, arms: list[Arm]) -> list[Arm]:
        if Arm() not in arms:
            raise ValueError("one arm has to be without a term: the others are compared with it")
        return arms

    @model_validator(mode="after")
    def _fits(self) -> "RealLayersConfig":
        every_kind = [*self.kinds, *self.line]
        lists: dict[str, list[Any]] = {"blocks": self.blocks, "kinds and line": every_kind, "arms": self.arms}
        for name, values in lists.items():
            if any(values.count(value) > 1 for value in values):
                raise ValueError(f"{name}: a value stands there twice: leave one of them out")
        if self.passage is not None and not set(self.passage.blocks) <= set(self.blocks):
            raise ValueError("passage: its blocks have to be among the blocks (passage: null leaves it out)")
        if self.tokens < self.batch_size:
            raise ValueError(f"tokens={self.tokens} do not make one batch of {self.batch_size}: raise tokens")
        for kind, arm in product(every_kind, self.arms):  # its own errors, now
            kind.config(arm, d_in=1, d_out=1, d_sae=self.d_sae, device="cpu")
        return self

    @property
    def n_steps(self) -> int:
        """Optimizer steps of each transcoder."""
        return -(-self.tokens // self.batch_size)

    @property
    def n_shards(self) -> int:
        """Of each store."""
        return -(-self.stored_prompts // self.prompts_per_shard)

    def runs(self) -> list[Run]:
        """In the order in which they are made: by seed, so that an interrupted experiment has whole ones."""
        found = []
        for seed in range(self.seed, self.seed + self.seeds):
            found += [Run(*of, seed, False) for of in product(self.blocks, self.kinds, self.arms)]
            found += [Run(*of, seed, False) for of in product(self.blocks, self.line, [Arm()])]
            if self.passage is not None:
                found += [Run(*of, seed, True) for of in product(self.passage.blocks, self.kinds, self.passage.arms)]
        return found

    def derivatives(self, *, repeated: bool) -> list[dict[str, Any]]:
        """What a store has to keep for its runs, each once."""
        arms = self.passage.arms if repeated and self.passage is not None else self.arms
        asked = [{**arm.jacobian, "gate_bandwidth": None} for arm in arms if arm.jacobian is not None]
        return [of for i, of in enumerate(asked) if of not in asked[:i]]
