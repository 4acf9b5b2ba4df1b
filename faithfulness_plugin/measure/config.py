"""Settings of measurements on held-out prompts."""

import operator
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from faithfulness_plugin.language_model.config import ModelSource, TextSource
from faithfulness_plugin.language_model.rows import EVERY_ROW, RowSettings, require_rows
from faithfulness_plugin.results.schema import Record

Part = Literal["first directions", "effects", "deletion"]
PARTS: tuple[Part, ...] = ("first directions", "effects", "deletion")
"""Parts of a measurement that can be left out: errors in the layer's first singular directions, effects downstream, and
deletion curves."""
HALF_WAY = 0.5
"""The length of the step that tables report: half-way to another token, or half the rms coordinate."""
SIZES = [1, 2, 4, 8, 16, 32, 64, 128]
"""How many features are deleted, where nothing else is said."""
LESS: dict[str, Any] = {"jacobian_rows": 4, "response_rows": 16, "distances": [HALF_WAY], "left_out": [*PARTS]}
"""Settings of a quick look: fewer rows and steps, without the parts that run the model most."""


class HeldOutConfig(Record):
    """How a transcoder of a language model's layer is measured: model, text, rows, directions."""

    model: ModelSource = ModelSource()
    text: TextSource = TextSource()
    seed: int = Field(default=0, ge=0, lt=2**61, description="the first seed; it decides the prompts' order as well")
    context_size: int = Field(default=128, ge=2, description="tokens of each prompt")
    prompts_per_pass: int = Field(default=8, ge=1, description="prompts that the model is run on at a time")
    held_out_prompts: int = Field(
        default=32, ge=2, description="prompts for every measurement but those of the spliced model"
    )
    spliced_prompts: int = Field(default=16, ge=1, description="held-out prompts that the spliced model is run on")
    jacobian_rows: int = Field(default=8, ge=1, description="rows of each held-out prompt for whole Jacobians")
    response_rows: int = Field(default=32, ge=1, description="rows of each held-out prompt for response curves")
    rows: RowSettings = Field(default=EVERY_ROW, exclude_if=lambda rows: rows == EVERY_ROW)
    distances: list[float] = Field(
        default=[0.1, 0.25, HALF_WAY, 0.75, 1.0], min_length=1, description="lengths of steps, for response curves"
    )
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="where models run: cpu or cuda")

    @field_validator("distances")
    @classmethod
    def _has_half_way(cls, distances: list[float]) -> list[float]:
        if HALF_WAY not in distances or min(distances) <= 0:
            raise ValueError("distances are positive, and one of them is 0.5 (half-way)")
        return distances

    @model_validator(mode="after")
    def _has_enough_prompts(self) -> "HeldOutConfig":
        require_rows(self.rows, self.context_size)
        if self.spliced_prompts > self.held_out_prompts:
            raise ValueError(f"spliced_prompts: choose at most {self.held_out_prompts}, the number of held-out prompts")
        return self


class ArtifactConfig(HeldOutConfig):
    """What `faithfulness measure` measures: finished transcoders of one layer."""

    transcoders: dict[str, str] = Field(min_length=1, description="folders or addresses by name, in any known format")
    model_named: str | None = Field(
        default=None,
        exclude_if=lambda named: named is None,
        description="the model that the transcoders' metadata name, where another one is measured on purpose",
    )
    block: int | None = Field(
        default=None, ge=0, description="the layer of a set; where the files name no tensors, whose MLP they replace"
    )
    hook_in: str | None = Field(default=None, description="the tensor that they read; by default what they say")
    hook_out: str | None = Field(default=None, description="the tensor that they write; by default what they say")
    hooks_anyway: bool = Field(
        default=False, exclude_if=operator.not_, description="whether hook_in and hook_out may contradict the files"
    )
    autoencoder: bool = Field(
        default=False, exclude_if=operator.not_, description="whether autoencoders are measured, as maps of one tensor"
    )
    transcoder_dtype: Literal["float32", "stored"] = Field(
        default="float32",
        exclude_if=lambda dtype: dtype == "float32",
        description="what weights are converted to; stored: they stay as they are",
    )
    references: bool = Field(
        default=True,
        exclude_if=bool,
        description="whether each is measured beside its shuffled decoder and the layer's mean",
    )
    top: list[int] = Field(
        default=[1, 4, 16, 64], min_length=1, description="numbers of J_f's first singular directions, for errors"
    )
    spectrum_rows: int = Field(default=32, ge=1, description="rows at which singular directions are computed")
    effect_prompts: int | None = Field(
        default=None,
        ge=1,
        exclude_if=lambda prompts: prompts is None,
        description="held-out prompts for effects and deletion curves [default: all that the spliced model is run on]",
    )
    deletion_sizes: list[int] = Field(
        default=SIZES,
        min_length=1,
        exclude_if=lambda sizes: sizes == SIZES,
        description="how many features are deleted at each point of a deletion curve",
    )
    left_out: list[Part] = Field(
        default_factory=list, exclude_if=operator.not_, description="parts that are not measured, as with --quick"
    )

    @model_validator(mode="after")
    def _can_be_measured(self) -> "ArtifactConfig":
        if min(self.top) < 1:
            raise ValueError("top: pass numbers of directions, from 1 on")
        if min(self.deletion_sizes) < 1:
            raise ValueError("deletion_sizes: pass numbers of features, from 1 on")
        if self.changed_prompts > self.spliced_prompts:
            raise ValueError(f"effect_prompts: choose at most {self.spliced_prompts}, the number of spliced_prompts")
        return self

    @property
    def changed_prompts(self) -> int:
        """How many held-out prompts effects and deletion curves are measured on."""
        return self.spliced_prompts if self.effect_prompts is None else self.effect_prompts

    @property
    def unmeasured(self) -> list[str]:
        """What these settings leave out, in words."""
        return [*self.left_out, *["references"] * (not self.references)]

    @property
    def reading(self) -> dict[str, Any]:
        """How the transcoders are read: arguments of `load_each`."""
        return {
            "layer": self.block,
            "device": self.device,
            "dtype": self.transcoder_dtype,
            "autoencoder": self.autoencoder,
        }
