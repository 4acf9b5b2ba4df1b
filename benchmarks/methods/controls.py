"""The control of Jacobian matching, for each architecture: outputs matched at other points, and no derivative."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from sae_lens.saes.sae import TrainCoefficientConfig, TrainStepInput, TrainStepOutput
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.benchmarks.note.trainer.augmentation import Augmentation
from faithfulness_plugin.jacobian.packed_rows import PackedRows
from faithfulness_plugin.jacobian.probes import ISOTROPIC, difference, gaussian
from faithfulness_plugin.transcoders.base import TrainingTranscoder
from faithfulness_plugin.transcoders.batch_topk import BatchTopKTrainingTranscoder, BatchTopKTrainingTranscoderConfig
from faithfulness_plugin.transcoders.config import TrainingTranscoderConfig, register_once
from faithfulness_plugin.transcoders.jumprelu import JumpReLUTrainingTranscoder, JumpReLUTrainingTranscoderConfig
from faithfulness_plugin.transcoders.standard import StandardTrainingTranscoder, StandardTrainingTranscoderConfig
from faithfulness_plugin.transcoders.topk import TopKTrainingTranscoder, TopKTrainingTranscoderConfig


@dataclass(kw_only=True)
class NoiseAugmentationConfig(TrainingTranscoderConfig):
    """The fields of the control, for any architecture."""

    augmentation_kind: Literal["noise", "interpolation"] = "noise"
    """"noise": at x + noise. "interpolation": at x + scale * (another row of the batch - x)."""
    augmentation_coefficient: float = 1.0
    """Weight of the outputs there; those at the inputs themselves have weight 1."""
    augmentation_scale: float = 0.5
    """The standard deviation of noise, a multiple of the batch's rms coordinate, as `jitter` is; how far an
    interpolation goes to the other row."""


class NoiseAugmentation(TrainingTranscoder[Any]):
    """Matches the layer's outputs at other points as well: with noise at those that jittered Jacobian matching sees,
    with interpolation at those of a secant along differences; as many calls of the layer, but no derivative. What it
    achieves is no merit of Jacobians. Stands in front of an architecture's class."""

    @override
    def get_coefficients(self) -> dict[str, float | TrainCoefficientConfig]:
        return {**super().get_coefficients(), "augmentation": self.cfg.augmentation_coefficient}

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        output = super().training_forward_pass(step_input)
        moved, y = self._other_points(step_input.sae_in)
        mse = self.mse_loss_fn(self(moved), y).sum(-1).mean()
        output.losses["augmentation_loss"] = step_input.coefficients["augmentation"] * mse
        output.loss = torch.stack(list(output.losses.values())).sum()
        self.check_finite(step_input, output)
        return output

    def _other_points(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return other points, and the layer's outputs there."""
        layer, noise, scale = self.given_layer, self.cfg.augmentation_kind == "noise", self.cfg.augmentation_scale
        if isinstance(layer, PackedRows) and layer.known is not None:
            x = layer.unpack(x).x
        if not isinstance(layer, PackedRows) or layer.known is not None:
            generator = self.matching.generator(x.device)
            if noise:
                moved = x + scale * x.square().mean().sqrt() * gaussian(x, 1, generator)[0]
            else:
                moved = x + scale * difference(x, 1, generator)[0]
            return moved, self.target(moved)
        product, (x, y, v, Jv, *_) = layer.product, layer.unpack(x)
        # the product of a step to one side gives the output at its end
        if product is None or v is None or Jv is None or not product.build_estimator().finite_step or product.central:
            raise ValueError("augmentation needs outputs beside the rows: read them from the store with a secant")
        probes = ISOTROPIC if noise else ("difference",)
        if product.probe not in probes or product.radius != scale:
            raise ValueError(
                f"the rows bring {product.probe} secants of radius {product.radius}, and the control takes "
                f"{' or '.join(probes)} of {scale}: read the rows with those"
            )
        return x + layer.step * v[0], self.as_target(x, y + layer.step * Jv[0])


CONTROLS: dict[type, tuple[Any, Any]] = {}
"""The control's config and training class, by the config of the architecture without it."""


def _control(name: str, config_class: type[TrainingTranscoderConfig], transcoder_class: type) -> tuple[Any, Any]:
    """Make and register the control with an architecture, config and training class. Pickle finds them in this module
    by their names."""
    plain = config_class.architecture().replace("standard_", "")
    architecture = plain.replace("faithful_", "faithful_noise_augmented_")
    shared = {"__module__": __name__, "__doc__": f"The control with the architecture of `{transcoder_class.__name__}`."}
    named = {**shared, "architecture": classmethod(lambda cls: architecture)}
    config = dataclass(kw_only=True)(type(f"{name}Config", (NoiseAugmentationConfig, config_class), named))
    transcoder = type(name, (NoiseAugmentation, transcoder_class), shared)
    register_once(transcoder, config)
    CONTROLS[config_class] = config, transcoder
    return config, transcoder


NoiseAugmentedTranscoderConfig, NoiseAugmentedTranscoder = _control(
    "NoiseAugmentedTranscoder", StandardTrainingTranscoderConfig, StandardTrainingTranscoder
)
NoiseAugmentedTopKTranscoderConfig, NoiseAugmentedTopKTranscoder = _control(
    "NoiseAugmentedTopKTranscoder", TopKTrainingTranscoderConfig, TopKTrainingTranscoder
)
NoiseAugmentedBatchTopKTranscoderConfig, NoiseAugmentedBatchTopKTranscoder = _control(
    "NoiseAugmentedBatchTopKTranscoder", BatchTopKTrainingTranscoderConfig, BatchTopKTrainingTranscoder
)
NoiseAugmentedJumpReLUTranscoderConfig, NoiseAugmentedJumpReLUTranscoder = _control(
    "NoiseAugmentedJumpReLUTranscoder", JumpReLUTrainingTranscoderConfig, JumpReLUTrainingTranscoder
)


def augmented(config: TrainingTranscoderConfig, augmentation: Augmentation) -> TrainingTranscoderConfig:
    """Build the control's config with the fields of an architecture's.

    Args:
        config: of the architecture without the control.
        augmentation: at which points outputs are matched, and with which weight.

    Returns:
        The config.
    """
    fields = {f"augmentation_{name}": value for name, value in asdict(augmentation).items()}
    return CONTROLS[type(config)][0](**vars(config), **fields)
