"""The settings that every transcoder here shares, and their place in SAELens's registry."""

from abc import ABC
from dataclasses import dataclass, fields
from math import inf
from typing import Any

from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY, register_sae_training_class
from sae_lens.saes.sae import SAEConfig, TrainingSAEConfig
from sae_lens.saes.transcoder import (
    JumpReLUSkipTranscoderConfig,
    JumpReLUTranscoderConfig,
    SkipTranscoderConfig,
    TranscoderConfig,
)
from typing_extensions import override

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.jacobian.matching_config import JacobianMatchingConfig, as_config
from faithfulness_plugin.require import number, whole


@dataclass(kw_only=True)
class TrainingTranscoderConfig(TrainingSAEConfig, ABC):
    """The fields that all transcoders share, besides SAELens's own (d_in, d_sae, dtype, device, metadata)."""

    d_out: int = 0
    """Width of the layer's output; 0 for the same as d_in."""
    apply_b_dec_to_input: bool = False
    """Always False: b_dec lives in the output space."""
    decoder_init_norm: float | None = None
    """Rescale the decoder's rows to this norm at the start; None keeps the uniform draw."""
    jacobian: JacobianMatchingConfig | dict[str, Any] | None = None
    """The settings of Jacobian matching: a `JacobianMatchingConfig` or its dict; None for the defaults."""
    jacobian_coefficient: float = 0.0
    """Weight of the Jacobian term; 0 turns it off. With the config's `normalize`, 1 makes the loss of the whole
    Jacobian as costly as the loss of the whole output; 10, with a warm-up over the first eighth of the steps, is a
    good start where a feature for one datapoint would save several others."""
    jacobian_warm_up_steps: int = 0
    """Steps over which that weight grows linearly from 0."""
    gradient_masking_coefficient: float = 0.0
    """Weight of `gradient_masking_penalty`: what features cost for their slope, however little they write."""
    skip: bool = False
    """Adds W_skip x to the output, W_skip [d_out, d_in] starting at 0."""

    @override
    def __post_init__(self) -> None:
        _require_kinds(self)
        if self.apply_b_dec_to_input:
            raise ValueError(
                "apply_b_dec_to_input=True cannot work for a transcoder: b_dec lives in the output space. Leave it out"
            )
        if self.normalize_activations != "none":
            raise ValueError(
                f"normalize_activations={self.normalize_activations!r} is not supported: the layer would be evaluated "
                'at rescaled inputs. Use "none" and scale the layer instead (f(s x) / s)'
            )
        if self.reshape_activations != "none":
            raise ValueError(
                f'reshape_activations={self.reshape_activations!r} is not supported for transcoders: use "none"'
            )
        self.d_out = self.d_out or self.d_in
        for name in ("d_in", "d_out", "d_sae"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: a width is at least 1")
        for name in ("jacobian_coefficient", "jacobian_warm_up_steps", "gradient_masking_coefficient"):
            require_non_negative(self, name)
        self.jacobian = as_config({} if self.jacobian is None else self.jacobian)
        super().__post_init__()

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        return SkipTranscoderConfig if self.skip else TranscoderConfig

    def jumprelu_config_class(self) -> type[SAEConfig]:
        """Return the config class of the stock JumpReLU transcoder, for architectures that are exported as one.

        Returns:
            SAELens's class, the one with a skip connection with `skip`.
        """
        return JumpReLUSkipTranscoderConfig if self.skip else JumpReLUTranscoderConfig

    @override
    def to_dict(self) -> dict[str, Any]:
        # not all of its fields: those of cross-layer transcoders only where they are set
        jacobian = self.jacobian
        return {
            **super().to_dict(),
            "jacobian": jacobian.to_dict() if isinstance(jacobian, JacobianMatchingConfig) else jacobian,
        }

    @override
    def get_training_architecture_details(self) -> dict[str, Any]:
        details = super().get_training_architecture_details()
        return {k: v.to_dict() if isinstance(v, JacobianMatchingConfig) else v for k, v in details.items()}


def _require_kinds(config: TrainingTranscoderConfig) -> None:
    """Raise UsageError for a field that is no number, or neither True nor False, where it should be."""
    for field in fields(config):
        value = getattr(config, field.name)
        if field.type is int:
            setattr(config, field.name, whole(field.name, value))
        elif field.type is float or (field.type == float | None and value is not None):
            number(field.name, value)
        elif field.type is bool and not isinstance(value, bool):
            raise UsageError(f"{field.name}={value!r}: choose True or False")


def require_non_negative(config: TrainingTranscoderConfig, name: str) -> None:
    """Check that a field is a number from 0 on.

    Args:
        config: the config.
        name: the field.

    Raises:
        ValueError: it is negative, infinite or NaN.
    """
    if not 0 <= getattr(config, name) < inf:
        raise ValueError(f"{name}={getattr(config, name)} must be finite and not negative")


def register_once(sae_class: type, config_class: type[TrainingSAEConfig]) -> None:
    """Register a training class with SAELens, which refuses a name twice (a module may be imported again).

    Args:
        sae_class: the class.
        config_class: its config's, whose `architecture()` is the name.
    """
    if config_class.architecture() not in SAE_TRAINING_CLASS_REGISTRY:
        register_sae_training_class(config_class.architecture(), sae_class, config_class)
