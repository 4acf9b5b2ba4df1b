"""How transcoders of a language model's layer are measured."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from faithfulness_plugin.language_model.config import ModelSource, TextSource
from faithfulness_plugin.language_model.rows import EVERY_ROW, RowSettings, require_rows
from faithfulness_plugin.results.schema import Record


class HeldOutConfig(Record):
    """Of the model, the text and the rows."""

    model: ModelSource = ModelSource()
    text: TextSource = TextSource()
    seed: int = Field(default=0, ge=0, lt=2**61, description="the first; of the prompts' order as well")
    context_size: int = Field(default=128, ge=2)
    prompts_per_pass: int = Field(default=8, ge=1, description="prompts that the model is run on at a time")
    held_out_prompts: int = Field(default=32, ge=2, description="for every measurement but the next")
    spliced_prompts: int = Field(default=16, ge=1, description="of these, those that the spliced model is run on")
    jacobian_rows: int = Field(default=8, ge=1, description="a held-out prompt, for whole Jacobians")
    response_rows: int = Field(default=32, ge=1, description="a held-out prompt, for response curves")
    rows: RowSettings = Field(default=EVERY_ROW, exclude_if=lambda rows: rows == EVERY_ROW)
    distances: list[float] = Field(default=[0.1, 0.25, 0.5, 0.75, 1.0], min_length=1)
    device: Literal["cpu", "cuda"] = "cpu"

    @field_validator("distances")
    @classmethod
    def _has_half_way(cls, distances: list[float]) -> list[float]:
        if 0.5 not in distances or min(distances) <= 0:
            raise ValueError("distances are positive, and one of them is 0.5 (half-way)")
        return distances

    @model_validator(mode="after")
    def _has_enough_prompts(self) -> "HeldOutConfig":
        require_rows(self.rows, self.context_size)
        if self.spliced_prompts > self.held_out_prompts:
            raise ValueError(f"spliced_prompts: there are {self.held_out_prompts} held-out prompts")
        return self
