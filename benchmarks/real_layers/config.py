"""Settings of the experiment on real layers; by default, what two cores run in 25 minutes beside full stores."""

import operator
from itertools import product
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from faithfulness_plugin.benchmarks.real_layers.arms import NONE, SKIP, Arm
from faithfulness_plugin.benchmarks.real_layers.kinds import Kind
from faithfulness_plugin.jacobian.matching_config import as_config
from faithfulness_plugin.language_model.config import require_a_batch
from faithfulness_plugin.measure.config import HeldOutConfig
from faithfulness_plugin.results.schema import Record

PASSAGE = "The committee agreed that seventeen copper lanterns should hang beneath the northern bridge until spring."


FOLDER_NAME = str.maketrans({",": "-", " ": "-", "(": None, ")": None, "'": None})
"""What becomes of a run's name in the name of its folder."""


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
        return self.name.translate(FOLDER_NAME).replace("--", "_")


class Passage(Record):
    """The repeated passage: which runs see it again and again."""

    text: str = PASSAGE
    share: float = Field(default=0.05, gt=0, lt=1, description="share of the training rows")
    blocks: list[int]
    arms: list[Arm]


EXTRA = 1.75
"""The cost of a step with secants in steps without a term, rounded up: the price list says what was measured."""
MATCHED, AUGMENTED = 0.3, 1.0
"""Coefficients of the term and of augmentation, as the preset `sweep` found them: the least pair error at an FVU no
worse than that of skip alone."""
RECIPES = [
    Arm(skip=True, term="jvp", probe="pair", coefficient=MATCHED),
    Arm(skip=True, term="secant", probe="pair", coefficient=MATCHED),
]
"""The arms that the experiment is about."""
ARMS = [
    NONE,
    SKIP,
    *RECIPES,
    Arm(skip=True, term="augmentation", probe="difference", coefficient=AUGMENTED),
    Arm(skip=True, control="constant map"),
]


class RealLayersConfig(HeldOutConfig):
    """Does Jacobian matching make transcoders of a language model's MLPs more faithful, and what does it cost? Trains
    them with and without a skip connection and a term (jvp or secant, along isotropic, difference and pair probes),
    beside controls: the mean Jacobian alone and frozen, augmentation, more active features, the MLP's own weights as
    first dictionary, more compute, and an MLP with permuted weights. Measures errors beside their floors, and the loss
    of the spliced model.
    """

    blocks: list[int] = Field(default=[10], min_length=1, description="blocks whose MLPs are replaced")
    kinds: list[Kind] = Field(default=[Kind()], min_length=1)
    arms: list[Arm] = Field(default=ARMS, min_length=1)
    line: list[Kind] = Field(
        default=[Kind(sparsity=64)],
        description="kinds of other sparsity, trained with line_arms alone: how errors go with FVU and L0",
    )
    line_arms: list[Arm] = Field(
        default=[SKIP], min_length=1, exclude_if=lambda arms: arms == [NONE], description="the arms of line"
    )
    passage: Passage | None = None
    seeds: int = Field(default=1, ge=1, description="how many seeds")
    d_sae: int = Field(default=2304, ge=1, description="features of each transcoder")
    stored_prompts: int = Field(default=1280, ge=1, description="prompts whose rows are kept; an epoch")
    prompts_per_shard: int = Field(default=64, ge=1, description="prompts whose rows a file of a store holds")
    keep: Literal["derivatives", "rows"] = Field(
        default="rows",
        exclude_if=lambda keep: keep == "derivatives",
        description="what stores keep: rows and the layer's weights, from which arms compute derivatives with fresh "
        "probes at every step (derivatives: as version 0.8 did; not trained from any more)",
    )
    stored_dtype: Literal["float16", "bfloat16", "float32", "float64"] = Field(
        default="float16", description="dtype of the rows in stores"
    )
    tokens: int = Field(default=512_000, ge=1, description="tokens that every transcoder is trained on")
    batch_size: int = Field(default=512, ge=2, description="tokens a step")
    lr: float = Field(default=4e-3, gt=0, description="learning rate")
    lr_warm_up_steps: int = Field(default=0, ge=0, exclude_if=operator.not_, description="steps over which lr grows")
    lr_decay_share: float = Field(default=0.2, ge=0, le=1, description="share of the steps over which lr falls to 0")
    jacobian_warm_up_steps: int = Field(
        default=0, ge=0, exclude_if=operator.not_, description="steps over which the term's coefficient grows"
    )
    extra_compute: float = Field(
        default=EXTRA,
        gt=1,
        exclude_if=lambda ratio: ratio == EXTRA,
        description="how many times the steps of the others an arm with extra compute takes",
    )

    @field_validator("arms")
    @classmethod
    def _have_baselines(cls, arms: list[Arm]) -> list[Arm]:
        for arm in arms:
            if arm.baseline not in arms:
                raise ValueError(f"{arm.name} is compared with {arm.baseline.name}, without a term: add that arm")
            if arm.vary is not None and arm.unvaried not in arms:
                raise ValueError(f"{arm.name} is compared with {arm.unvaried.name}: add that arm")
        return arms

    @model_validator(mode="after")
    def _fits(self) -> "RealLayersConfig":
        every_kind = [*self.kinds, *self.line]
        lists: dict[str, list[Any]] = {
            "blocks": self.blocks,
            "kinds and line": every_kind,
            "arms": self.arms,
            "line_arms": self.line_arms,
        }
        for name, values in lists.items():
            if any(values.count(value) > 1 for value in values):
                raise ValueError(f"{name}: a value is given twice: leave one of them out")
        if self.passage is not None and not set(self.passage.blocks) <= set(self.blocks):
            raise ValueError("passage: its blocks have to be among the blocks (passage: null leaves it out)")
        require_a_batch(self.tokens, self.batch_size)
        self._require_warm_up()
        for kind, arm in product(every_kind, self.arms):
            kind.checked(self.features(arm))
        for arm in self.arms:
            as_config(arm.jacobian or {})
        return self

    def features(self, arm: Arm) -> int:
        """Count the features of an arm's transcoders.

        Args:
            arm: what is matched, and how.

        Returns:
            `d_sae`, or the arm's own.
        """
        return arm.vary.d_sae if arm.vary is not None and arm.vary.d_sae is not None else self.d_sae

    def term_warm_up(self, arm: Arm) -> int:
        """Count the steps over which the coefficient of an arm's term grows.

        Args:
            arm: what is matched, and how.

        Returns:
            `jacobian_warm_up_steps`, or the arm's own.
        """
        share = None if arm.vary is None else arm.vary.term_warm_up
        return self.jacobian_warm_up_steps if share is None else round(share * self.n_steps)

    def _require_warm_up(self) -> None:
        decay = int(self.lr_decay_share * self.n_steps)
        for name, steps in (
            ("lr_warm_up_steps", self.lr_warm_up_steps + decay),
            ("jacobian_warm_up_steps", self.jacobian_warm_up_steps),
        ):
            if steps > self.n_steps:
                raise ValueError(
                    f"{name}={getattr(self, name)}: {self.tokens:,} tokens are {self.n_steps} steps, which do not hold "
                    f"it{f' and the decay of {decay}' * name.startswith('lr')}: raise tokens, or lower it"
                )

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
            found += [Run(*of, seed, False) for of in product(self.blocks, self.line, self.line_arms)]
            if self.passage is not None:
                found += [Run(*of, seed, True) for of in product(self.passage.blocks, self.kinds, self.passage.arms)]
        # a constant map has neither a sparsity nor a seed
        first = (self.kinds[0], self.seed)
        return [run for run in found if run.arm.control != "constant map" or (run.kind, run.seed) == first]

    def steps(self, arm: Arm) -> int:
        """Count the optimizer steps of an arm.

        Args:
            arm: what is matched, and how.

        Returns:
            The steps; 0 where nothing is trained.
        """
        if arm.control == "constant map":
            return 0
        return round(self.n_steps * self.extra_compute) if arm.control == "extra compute" else self.n_steps


class RealLayersOptions(Record):
    """What decides no number."""

    stores: str | None = Field(default=None, description="folder for stores of rows [default: stores in --out]")
