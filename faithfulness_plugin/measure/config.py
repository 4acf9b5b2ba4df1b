"""What `faithfulness bench artifact` measures."""

import operator
from typing import Literal

from pydantic import Field, model_validator

from faithfulness_plugin.measure.held_out_config import HeldOutConfig


class ArtifactConfig(HeldOutConfig):
    """Some transcoders of one layer."""

    transcoders: dict[str, str] = Field(min_length=1, description="folders or addresses by name, in any known format")
    model_named: str | None = Field(
        default=None,
        exclude_if=lambda named: named is None,
        description="by the transcoders' metadata, where another model is measured on purpose",
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
        description="what weights are converted to; stored: nothing else than they are in",
    )
    top: list[int] = Field(default=[1, 4, 16, 64], min_length=1, description="singular directions of J_f, for errors")
    spectrum_rows: int = Field(default=32, ge=1, description="at which they are taken")

    @model_validator(mode="after")
    def _some_directions(self) -> "ArtifactConfig":
        if min(self.top) < 1:
            raise ValueError("top: numbers of directions, from 1 on")
        return self
