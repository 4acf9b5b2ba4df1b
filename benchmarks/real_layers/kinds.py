"""Which transcoders are trained: architectures at a sparsity."""

from typing import Any, Literal

from pydantic import Field, model_validator

from faithfulness_plugin.language_model.transcoder_settings import Architecture, checked_settings
from faithfulness_plugin.results.schema import Record

NAMES: dict[str, Architecture] = {
    "topk": "topk",
    "batch_topk": "batch_topk",
    "relu": "standard",
    "jumprelu": "jumprelu",
}
"""The registered architecture of each kind."""
SPARSITY = {"topk": "k", "batch_topk": "k", "relu": "penalty", "jumprelu": "L0"}
"""What `sparsity` is, by architecture."""


class Kind(Record):
    """A kind of transcoder."""

    architecture: Literal["topk", "batch_topk", "relu", "jumprelu"] = "topk"
    sparsity: float = Field(
        default=32,
        gt=0,
        description="topk and batch_topk: k; jumprelu: the L0 that its penalty aims at; relu: the coefficient of the "
        "tanh penalty",
    )
    skip: Literal[False] = Field(default=False, description="written by version 0.8; arms say it now")
    l0_coefficient: float = Field(
        default=1.0,
        gt=0,
        exclude_if=lambda coefficient: coefficient == 1.0,
        description="jumprelu: the weight of the penalty for another L0",
    )

    @model_validator(mode="after")
    def _whole(self) -> "Kind":
        if self.architecture == "topk" and self.sparsity != int(self.sparsity):
            raise ValueError(f"topk keeps a whole number of features, not {self.sparsity:g}")
        if self.architecture != "jumprelu" and self.l0_coefficient != 1.0:
            raise ValueError("l0_coefficient belongs to jumprelu: leave it out")
        return self

    @property
    def name(self) -> str:
        """The name in tables."""
        return f"{self.architecture} {SPARSITY[self.architecture]} {self.sparsity:g}"

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of the architecture's config that decide the sparsity."""
        if self.architecture == "relu":
            return {"sparsity_coefficient": self.sparsity}
        if self.architecture == "jumprelu":
            aim = {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": self.sparsity}
            return {**aim, "l0_coefficient": self.l0_coefficient}
        return {"k": int(self.sparsity) if self.architecture == "topk" else self.sparsity}

    def checked(self, d_sae: int) -> None:
        """Refuse settings that do not fit, before SAELens is loaded.

        Args:
            d_sae: features.

        Raises:
            ValueError: a setting does not fit.
        """
        checked_settings(NAMES[self.architecture], {"d_sae": d_sae, **self.settings})

    def config(self, **fields: Any) -> Any:
        """Build the config of a transcoder.

        Args:
            fields: what the kind does not decide: widths, skip, the Jacobian term, the device.

        Returns:
            The config.
        """
        from faithfulness_plugin.transcoders.architectures import ARCHITECTURES

        return ARCHITECTURES[NAMES[self.architecture]][0](**self.settings, **fields)
