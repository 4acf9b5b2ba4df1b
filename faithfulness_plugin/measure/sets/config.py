"""Settings of measurements of sets."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from faithfulness_plugin.language_model.config import ModelSource, TextSource
from faithfulness_plugin.language_model.plan import Blocks
from faithfulness_plugin.language_model.rows import EVERY_ROW, RowSettings, require_rows
from faithfulness_plugin.results.schema import Record


class SetConfig(Record):
    """What `faithfulness measure` measures of folders of transcoders of several layers."""

    sets: dict[str, dict[str, str]] = Field(min_length=1, description="folders of transcoders by name, set by set")
    model: ModelSource = ModelSource()
    model_named: str | None = Field(
        default=None,
        exclude_if=lambda named: named is None,
        description="the model that the transcoders' metadata name, where another one is measured on purpose",
    )
    transcoder_dtype: Literal["float32", "stored"] = Field(
        default="float32", exclude_if=lambda dtype: dtype == "float32"
    )
    text: TextSource = TextSource()
    seed: int = Field(default=0, ge=0, lt=2**61, description="decides the prompts' order, and the changed tokens")
    context_size: int = Field(default=128, ge=2, description="tokens of each prompt")
    prompts_per_pass: int = Field(default=8, ge=1, description="prompts that the model is run on at a time")
    held_out_prompts: int = Field(default=16, ge=2, description="prompts for errors, cross-entropies and KL")
    effect_prompts: int = Field(default=8, ge=2, description="of them, those in which something is changed")
    changed_blocks: Blocks | None = Field(
        default=None, description="blocks whose layer is changed; all; null: the first, the middle and the last but one"
    )
    doses: list[float] = Field(
        default=[0.1, 0.3, 1.0, 2.0, 3.0], min_length=1, description="factors of the changes' size"
    )
    effects: bool = Field(default=True, exclude_if=bool, description="whether changes are measured")
    rows: RowSettings = Field(default=EVERY_ROW, exclude_if=lambda rows: rows == EVERY_ROW)
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="where models run: cpu or cuda")

    @field_validator("doses")
    @classmethod
    def _has_its_size(cls, doses: list[float]) -> list[float]:
        if 1.0 not in doses or min(doses) <= 0:
            raise ValueError("doses are positive, and one of them is 1 (the change's own size)")
        return doses

    @model_validator(mode="after")
    def _has_enough_prompts(self) -> "SetConfig":
        require_rows(self.rows, self.context_size)
        if self.effect_prompts > self.held_out_prompts:
            raise ValueError(f"effect_prompts: choose at most {self.held_out_prompts}, the number of held-out prompts")
        return self

    @property
    def reading(self) -> dict[str, Any]:
        """How the transcoders are read: arguments of `load_each`."""
        return {"layer": None, "device": self.device, "dtype": self.transcoder_dtype, "autoencoder": False}
