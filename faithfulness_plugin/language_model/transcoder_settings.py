"""The settings of transcoders by architecture, as records that are checked before SAELens is loaded.

They are the fields of the config classes in `transcoders/`, with their defaults and limits: a test compares them.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from faithfulness_plugin.results.schema import Record
from faithfulness_plugin.results.settings_file import unknown_setting

Architecture = Literal["topk", "batch_topk", "standard", "jumprelu"]


class TranscoderSettings(Record):
    """What all architectures share."""

    d_sae: int = Field(ge=1, description="features")
    skip: bool = False
    decoder_init_norm: float | None = None
    apply_b_dec_to_input: Literal[False] = False
    normalize_activations: Literal["none"] = "none"
    reshape_activations: Literal["none"] = "none"
    jacobian_warm_up_steps: int = Field(default=0, ge=0)
    gradient_masking_coefficient: float = Field(default=0.0, ge=0)


class StandardSettings(TranscoderSettings):
    """A ReLU with a penalty."""

    sparsity: Literal["tanh", "l1"] = "tanh"
    sparsity_coefficient: float = Field(default=0.2, ge=0)
    sparsity_warm_up_steps: int = Field(default=0, ge=0)
    tanh_scale: float = Field(default=1.0, gt=0)


class BatchTopKSettings(TranscoderSettings):
    """The k n largest features of n rows."""

    k: float = Field(default=32, gt=0)
    aux_loss_coefficient: float = Field(default=1.0, ge=0)
    use_sparse_activations: bool | None = None
    rescale_acts_by_decoder_norm: bool = True
    topk_threshold_lr: float = Field(default=0.01, gt=0, le=1)

    @model_validator(mode="after")
    def _enough_features(self) -> "BatchTopKSettings":
        require_active(self.k, self.d_sae)
        return self


class TopKSettings(TranscoderSettings):
    """The k largest features of each row."""

    k: int = Field(default=32, gt=0)
    aux_loss_coefficient: float = Field(default=1.0, ge=0)
    use_sparse_activations: bool | None = None
    rescale_acts_by_decoder_norm: bool = True

    @model_validator(mode="after")
    def _enough_features(self) -> "TopKSettings":
        require_active(self.k, self.d_sae)
        return self


class JumpReLUSettings(TranscoderSettings):
    """A threshold per feature, with an L0 penalty."""

    jumprelu_init_threshold: float = Field(default=0.01, ge=0)
    jumprelu_bandwidth: float = Field(default=0.05, gt=0)
    jumprelu_sparsity_loss_mode: Literal["step", "tanh", "quadratic"] = "step"
    l0_coefficient: float = Field(default=1.0, ge=0)
    l0_warm_up_steps: int = Field(default=0, ge=0)
    pre_act_loss_coefficient: float | None = None
    jumprelu_tanh_scale: float = 4.0
    jumprelu_ste_to_input: bool = False
    target_l0: float | None = None


SETTINGS: dict[Architecture, type[TranscoderSettings]] = {
    "topk": TopKSettings,
    "batch_topk": BatchTopKSettings,
    "standard": StandardSettings,
    "jumprelu": JumpReLUSettings,
}
DEFAULTS: dict[Architecture, dict[str, Any]] = {
    "topk": {"d_sae": 2304, "k": 32, "skip": True},
    "batch_topk": {"d_sae": 2304, "k": 32, "skip": True},
    "standard": {"d_sae": 2304, "skip": True},
    "jumprelu": {"d_sae": 2304, "skip": True},
}
"""What is trained where nothing else is said."""


def checked_settings(architecture: Architecture, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check the settings of a transcoder.

    Args:
        architecture: says which settings there are.
        given: settings by name.

    Returns:
        Those that were given, each with its type.

    Raises:
        ValueError: settings that do not exist, do not fit, or are missing.
    """
    record = SETTINGS[architecture]
    for name in given:
        if name not in record.model_fields:
            raise ValueError(f"transcoder: {unknown_setting(name, list(record.model_fields))}")
    if "d_sae" not in given:
        raise ValueError("transcoder: d_sae, the number of features, is missing")
    try:
        return record(**given).model_dump(exclude_unset=True)
    except ValidationError as error:
        first = error.errors()[0]
        name = "".join(f"{part}: " for part in first["loc"][:1])
        raise ValueError(f"transcoder: {name}{first['msg'].removeprefix('Value error, ')}") from error


def require_active(k: int | float, d_sae: int) -> None:
    """Refuse more active features than there are.

    Args:
        k: active features a row.
        d_sae: features.

    Raises:
        ValueError: k is above d_sae.
    """
    if k > d_sae:
        raise ValueError(f"k={k}: choose more than 0 active features and at most d_sae={d_sae}")
