"""Settings of the experiment on real layers; by default, what two cores run in half an hour or so."""

from itertools import product
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from faithfulness_plugin.benchmarks.real_layers.arms import NONE, Arm, Kind
from faithfulness_plugin.jacobian.matching_config import as_config
from faithfulness_plugin.language_model.config import require_a_batch
from faithfulness_plugin.measure.config import HeldOutConfig
from faithfulness_plugin.results.schema import Record

PASSAGE = "The committee agreed that seventeen copper lanterns should hang beneath the northern bridge until spring."


class Run(NamedTuple):
    """One transcoder of the experiment."""

    block: int
    kind: Kind
    arm: Arm
    seed: int
    repeated: bool
    """Whether the passage is repeated among its rows."""

    @property
    def name(self) -> str:
        """The name in progress lines."""
        return f"block {self.block}, {self.kind.name}, {self.arm.name}{', passage' * self.repeated}, seed {self.seed}"

    @property
    def folder(self) -> str:
        """The name of its folders."""
        return self.name.replace(", ", "_").replace(" ", "-")


class Passage(Record):
    """The repeated passage: which runs see it again and again."""

    text: str = PASSAGE
    share: float = Field(default=0.05, gt=0, lt=1, description="share of the training rows")
    blocks: list[int]
    arms: list[Arm]


LIGHT, MODERATE, FULL = 0.2, 0.3, 0.5
"""Coefficients. In a first look at block 10 jvp at the first and secants at the second left FVU about where it was."""
ARMS = [
    NONE,
    Arm(term="jvp", probe="isotropic", coefficient=LIGHT),
    Arm(term="jvp", probe="difference", coefficient=LIGHT),
    Arm(term="jvp", probe="pair", coefficient=LIGHT),
    Arm(term="secant", probe="difference", coefficient=MODERATE),
    Arm(term="secant", probe="pair", coefficient=MODERATE),
    Arm(term="augmentation", probe="difference", coefficient=FULL),
]


class RealLayersConfig(HeldOutConfig):
    """Does Jacobian matching make transcoders of a language model's MLPs more faithful, and along which
    directions? Trains them with no term, with jvp and secant along isotropic, difference and pair probes, with
    augmentation, and on a passage that is repeated; measures errors beside their floors, and the loss of the
    spliced model.
    """

    blocks: list[int] = Field(default=[10, 24], min_length=1, description="blocks whose MLPs are replaced")
    kinds: list[Kind] = Field(default=[Kind()], min_length=1)
    arms: list[Arm] = Field(default=ARMS, min_length=1)
    line: list[Kind] = Field(
        default=[Kind(sparsity=16), Kind(sparsity=64)],
        description="trained without a term alone: how errors go with FVU when nothing is matched",
    )
    passage: Passage | None = Passage(blocks=[10], arms=[NONE, ARMS[5]])
    seeds: int = Field(default=1, ge=1, description="how many seeds")
    d_sae: int = Field(default=2304, ge=1, description="features of each transcoder")
    stored_prompts: int = Field(default=1280, ge=1, description="prompts whose rows and derivatives are kept; an epoch")
    prompts_per_shard: int = Field(default=64, ge=1)
    keep: Literal["derivatives", "rows"] = Field(
        default="derivatives",
        exclude_if=lambda keep: keep == "derivatives",
        description="what stores keep beside the rows: derivatives for every arm; or, with rows, the layer's weights, "
        "from which arms compute theirs with fresh probes at every step",
    )
    stored_dtype: Literal["float16", "bfloat16", "float32", "float64"] = "float16"
    tokens: int = Field(default=512_000, ge=1, description="tokens that every transcoder is trained on")
    batch_size: int = Field(default=512, ge=2, description="tokens a step")
    lr: float = Field(default=4e-3, gt=0)
    lr_decay_share: float = Field(default=0.2, ge=0, le=1, description="share of the steps over which lr falls to 0")

    @field_validator("arms")
    @classmethod
    def _has_a_baseline(cls, arms: list[Arm]) -> list[Arm]:
        if NONE not in arms:
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
        require_a_batch(self.tokens, self.batch_size)
        for kind in every_kind:
            kind.checked(self.d_sae)
        for arm in self.arms:
            as_config(arm.jacobian or {})
        return self

    @property
    def n_steps(self) -> int:
        """Optimizer steps of each transcoder."""
        return -(-self.tokens // self.batch_size)

    def runs(self) -> list[Run]:
        """List all runs in their order: by seed, so that an interrupted experiment has whole ones.

        Returns:
            The runs.
        """
        found = []
        for seed in range(self.seed, self.seed + self.seeds):
            found += [Run(*of, seed, False) for of in product(self.blocks, self.kinds, self.arms)]
            found += [Run(*of, seed, False) for of in product(self.blocks, self.line, [NONE])]
            if self.passage is not None:
                found += [Run(*of, seed, True) for of in product(self.passage.blocks, self.kinds, self.passage.arms)]
        return found

    def derivatives(self, *, repeated: bool) -> list[dict[str, Any]]:
        """List what a store has to keep for its runs, each once.

        Args:
            repeated: for runs that see the passage again and again.

        Returns:
            Fields of JacobianMatchingConfig; none where weights are kept.
        """
        if self.keep == "rows":
            return []
        arms = self.passage.arms if repeated and self.passage is not None else self.arms
        asked = [{**arm.jacobian, "gate_bandwidth": None} for arm in arms if arm.jacobian is not None]
        return [of for i, of in enumerate(asked) if of not in asked[:i]]


class RealLayersOptions(Record):
    """What decides no number."""

    stores: str | None = Field(
        default=None, description="folder for stores of rows and derivatives [default: stores in --out]"
    )
