"""What `faithfulness bench artifact` measures."""

from pydantic import Field, model_validator

from faithfulness_plugin.benchmarks.held_out.config import HeldOutConfig


class ArtifactConfig(HeldOutConfig):
    """Some transcoders of one layer."""

    transcoders: dict[str, str] = Field(min_length=1, description="folders by name, in any format that is known")
    model_named: str | None = Field(
        default=None, description="by the transcoders' metadata, where another model is measured on purpose"
    )
    block: int | None = Field(default=None, ge=0, description="whose MLP they replace; by default what they say")
    hook_in: str | None = Field(default=None, description="where they read, for another layer than an MLP")
    hook_out: str | None = Field(default=None, description="where they write")
    top: list[int] = Field(default=[1, 4, 16, 64], min_length=1, description="singular directions of J_f, for errors")
    spectrum_rows: int = Field(default=32, ge=1, description="at which they are taken")

    @model_validator(mode="after")
    def _one_layer(self) -> "ArtifactConfig":
        if (self.hook_in is None) != (self.hook_out is None):
            raise ValueError("hook_in and hook_out: give both, or neither")
        if self.block is not None and self.hook_in is not None:
            raise ValueError("block: give either a block or two hooks")
        if min(self.top) < 1:
            raise ValueError("top: numbers of directions, from 1 on")
        return self
