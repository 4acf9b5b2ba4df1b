"""The typed result of `faithfulness reproduce`."""

import hashlib
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import override

from faithfulness_plugin.benchmarks.note.scan.settings import Architecture, Settings
from faithfulness_plugin.benchmarks.note.toy_records import Projection, RunMetrics
from faithfulness_plugin.results.schema import Interval, Record, Result, Share

ENOUGH_ROWS = 20

SHARED = (
    "d_in", "d_sae", "density", "repeat_frac", "n_ones", "architecture", "sparsity_coefficient", "k", "l0_coefficient",
    "n_steps", "batch_size", "lr",
)  # fmt: skip
"""Fields of the config that are settings of a scan."""

Seed = Annotated[int, Field(ge=0, lt=2**62)]


class AbsoluteValueConfig(Record):
    """What is trained, on what, for how long. Losses are per-row sums, averaged over the batch."""

    d_in: int = Field(default=16, ge=2, description="width of the layer y = |x|")
    d_sae: int = Field(default=64, ge=1, description="features of the transcoder")
    density: float = Field(default=0.1, gt=0, le=1, description="probability that a coordinate is not 0")
    repeat_frac: float = Field(default=0.05, gt=0, le=1, description="probability that a row is the point p")
    n_ones: int = Field(default=3, description="ones in p")
    architecture: Architecture = Field(
        default="standard", description="how it is kept sparse: standard, topk, batch_topk or jumprelu"
    )
    sparsity_coefficient: float = Field(default=0.2, ge=0, description="standard: weight of the tanh penalty")
    k: float = Field(default=2.0, gt=0, description="topk and batch_topk: features active per row")
    l0_coefficient: float = Field(default=0.1, ge=0, description="jumprelu: weight of the L0 penalty")
    n_steps: int = Field(default=4000, ge=1, description="optimizer steps")
    batch_size: int = Field(default=256, ge=1, description="rows a step")
    lr: float = Field(default=3e-3, gt=0, description="Adam's rate; 2.5 % warm-up, decay over the last 30 %")
    n_validation: int = Field(default=20_000, ge=2, description="rows that metrics are measured on")
    n_jacobian: int = Field(default=4_000, ge=2, description="of these, rows for exact Jacobians")
    seeds: tuple[Seed, ...] = Field(default=tuple(range(10)), min_length=1, description="one run per seed and arm")

    @property
    def sparsity_title(self) -> str:
        """How the transcoder is kept sparse, in words."""
        return {
            "standard": f"tanh penalty {self.sparsity_coefficient:g}",
            "topk": f"TopK, k {self.k:g}",
            "batch_topk": f"BatchTopK, k {self.k:g}",
            "jumprelu": f"JumpReLU, L0 penalty {self.l0_coefficient:g}",
        }[self.architecture]

    @property
    def settings(self) -> dict[str, Any]:
        """What all arms share, as settings of a scan."""
        return {name: getattr(self, name) for name in SHARED}

    @model_validator(mode="after")
    def _fits(self) -> "AbsoluteValueConfig":
        if not 2 <= self.n_ones <= self.d_in:
            raise ValueError(
                f"n_ones={self.n_ones}: memorization needs 2 ones or more, and at most d_in={self.d_in} fit"
            )
        repeated = self.repeat_frac * self.n_validation
        if min(repeated, (self.n_validation - repeated) * self.density / 2) < ENOUGH_ROWS:
            raise ValueError(
                f"repeat_frac={self.repeat_frac:g} and density={self.density:g} leave some circuit active on "
                f"fewer than {ENOUGH_ROWS} of {self.n_validation} validation rows: too few to measure it, choose others"
            )
        for seed in self.seeds:
            Settings(**self.settings, seed=seed)
        return self


class Arm(Record):
    """One way to train."""

    name: str
    title: str
    repeated: bool = Field(description="whether p is repeated in training")
    jacobian_coefficient: float = 0.0
    jacobian_warm_up: float = Field(default=0.0, description="share of the steps over which the coefficient grows")
    jacobian: dict[str, Any] = Field(default_factory=dict, description="fields of JacobianMatchingConfig")
    augmentation_coefficient: float = Field(default=0.0, description="the control's weight; 0: the plain transcoder")

    @property
    def settings(self) -> dict[str, Any]:
        """What the arm changes, as settings of a scan."""
        settings = {name: getattr(self, name) for name in ("jacobian_coefficient", "jacobian_warm_up")} | self.jacobian
        if not self.repeated:
            settings["repeat_frac"] = 0.0
        if self.augmentation_coefficient:
            settings |= {"augmentation": "noise", "augmentation_coefficient": self.augmentation_coefficient}
        return settings


class Run(Record):
    """One arm, one seed."""

    condition: str
    seed: int
    seconds: float = Field(description="of training; of members trained together, each one's share")
    metrics: RunMetrics
    jacobian_at_point: list[list[float]] = Field(description="J_t at p, [d_out][d_in], rounded to 4 decimals")
    projection: Projection


class ArmSummary(Record):
    """One arm, over its seeds."""

    condition: str
    metrics: dict[str, Interval]
    emergence: Share = Field(description="seeds with m above a tenth of its maximum")


class AbsoluteValueResult(Result):
    """The whole experiment, or as much of it as was run."""

    benchmark: Literal["absolute-value"] = "absolute-value"
    schema_version: Literal[1] = 1
    config: AbsoluteValueConfig
    conditions: list[Arm]
    layer_l0: float = Field(description="the layer's own active neurons per clean row: density * d_in")
    circuits: list[str] = Field(description="labels of the projections' rows")
    runs: list[Run]
    summary: list[ArmSummary]

    @property
    @override
    def settings(self) -> dict[str, Any]:
        digest = hashlib.sha256(str([arm.model_dump() for arm in self.conditions]).encode()).hexdigest()[:8]
        return {**self.config.model_dump(), "conditions": digest}

    @override
    def enlarged(self, fresh: "AbsoluteValueResult") -> "AbsoluteValueResult | None":
        seeds, wanted = self.config.seeds, fresh.config.seeds
        if seeds != wanted[: len(seeds)] or {**self.settings, "seeds": wanted} != fresh.settings:
            return None
        return fresh.model_copy(update={"environment": self.environment, "runs": self.runs})
