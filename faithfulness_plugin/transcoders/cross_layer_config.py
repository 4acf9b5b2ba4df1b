"""The settings of cross-layer transcoders."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from sae_lens.saes.sae import SAEConfig, TrainingSAEConfig
from sae_lens.saes.transcoder import TranscoderConfig
from typing_extensions import override

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.jacobian.cross_layer_matching import CrossLayerMatching
from faithfulness_plugin.jacobian.matching_config import JacobianMatchingConfig
from faithfulness_plugin.require import whole
from faithfulness_plugin.transcoders.config import TrainingTranscoderConfig

OF_THE_WHOLE = ("jacobian_coefficient", "jacobian_warm_up_steps", "gradient_masking_coefficient", "skip")
"""Fields that a config of one layer's features leaves alone."""


@dataclass(kw_only=True)
class CrossLayerTrainingTranscoderConfig(TrainingTranscoderConfig):
    """Config of `CrossLayerTrainingTranscoder`. Its d_in, d_sae and d_out are those of all layers together."""

    n_layers: int
    """How many layers it replaces."""
    per_layer: TrainingTranscoderConfig | dict[str, Any]
    """The config of each layer's features: one of the four architectures, with the widths of one layer."""
    bandwidth: int | None = None
    """To how many layers a feature writes, its own included; None for all from its own on."""
    tied: bool = False
    """Whether a feature writes the same to all its layers."""
    d_in: int = 0
    """n_layers times that of one layer."""
    d_sae: int = 0
    """n_layers times that of one layer."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "faithful_cross_layer_transcoder"

    @override
    def __post_init__(self) -> None:
        if isinstance(self.per_layer, Mapping):
            self.per_layer = cast(TrainingTranscoderConfig, TrainingSAEConfig.from_dict(self.per_layer))
        each = self.per_layer
        if not isinstance(each, TrainingTranscoderConfig) or isinstance(each, CrossLayerTrainingTranscoderConfig):
            raise UsageError(
                f"per_layer is a {type(each).__name__}: pass the config of one layer's features, such as "
                "StandardTrainingTranscoderConfig(d_in=..., d_sae=...)"
            )
        self.n_layers = whole("n_layers", self.n_layers)
        if self.n_layers < 1:
            raise UsageError(f"n_layers={self.n_layers}: there is at least one layer")
        if self.bandwidth is not None and not 1 <= whole("bandwidth", self.bandwidth) <= self.n_layers:
            raise UsageError(
                f"bandwidth={self.bandwidth}: of {self.n_layers} layers a feature writes to 1 to {self.n_layers}; None "
                "is all from its own on"
            )
        for name in ("d_in", "d_sae", "d_out"):
            total = self.n_layers * getattr(each, name)
            if getattr(self, name) not in (0, total):
                raise UsageError(
                    f"{name}={getattr(self, name)}: {self.n_layers} layers of {getattr(each, name)} have {total}; "
                    "leave it out"
                )
            setattr(self, name, total)
        for name in OF_THE_WHOLE:
            if getattr(each, name):
                raise UsageError(f"per_layer has {name}={getattr(each, name)}: {self._instead(name)}")
        if self.skip:
            raise UsageError(f"skip=True: {self._instead('skip')}")
        self.dtype, self.device = each.dtype, each.device
        super().__post_init__()
        CrossLayerMatching(cast(JacobianMatchingConfig, self.jacobian), 1)  # which says what it cannot match

    @property
    def of_layer(self) -> TrainingTranscoderConfig:
        """The config of one layer's features."""
        return cast(TrainingTranscoderConfig, self.per_layer)

    def writes_to(self, layer: int) -> int:
        """Count the layers that a layer's features write to.

        Args:
            layer: the layer that they read.

        Returns:
            Its own and those after it, within the bandwidth.
        """
        return min(self.n_layers - layer, self.bandwidth or self.n_layers)

    def part(self, layer: int) -> TrainingTranscoderConfig:
        """Make the config of one layer's features as a transcoder, whose output is what they write to each layer, one
        after the other.

        Args:
            layer: the layer that they read.

        Returns:
            The config, with a d_out of K * d_out.
        """
        each = self.of_layer
        widened = {**self._layer_dict(), "d_out": self.writes_to(layer) * each.d_out}
        return cast(TrainingTranscoderConfig, type(each).from_dict(widened))

    @override
    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "per_layer": self._layer_dict()}

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        return TranscoderConfig  # for SAELens's list of fields that are of training alone

    @override
    def get_training_architecture_details(self) -> dict[str, Any]:
        return {**super().get_training_architecture_details(), "per_layer": self._layer_dict()}

    def _layer_dict(self) -> dict[str, Any]:
        return {name: value for name, value in self.of_layer.to_dict().items() if name != "metadata"}

    @staticmethod
    def _instead(name: str) -> str:
        if name == "skip":
            return "a cross-layer transcoder has no skip connection; leave it out"
        return "it is of all layers together; pass it to CrossLayerTrainingTranscoderConfig"
