"""Controls: what a method must be held against before its effect is called its own."""

from dataclasses import dataclass
from typing import Any

import torch
from sae_lens.saes.sae import TrainCoefficientConfig, TrainStepInput, TrainStepOutput
from typing_extensions import override

from faithfulness_plugin.probes import gaussian
from faithfulness_plugin.transcoders.base import TrainingTranscoder
from faithfulness_plugin.transcoders.batch_topk import BatchTopKTrainingTranscoder, BatchTopKTrainingTranscoderConfig
from faithfulness_plugin.transcoders.config import TrainingTranscoderConfig, register_once
from faithfulness_plugin.transcoders.jumprelu import JumpReLUTrainingTranscoder, JumpReLUTrainingTranscoderConfig
from faithfulness_plugin.transcoders.standard import StandardTrainingTranscoder, StandardTrainingTranscoderConfig
from faithfulness_plugin.transcoders.topk import TopKTrainingTranscoder, TopKTrainingTranscoderConfig


@dataclass(kw_only=True)
class NoiseAugmentationConfig(TrainingTranscoderConfig):
    """The fields of the control, for any architecture."""

    augmentation_coefficient: float = 1.0
    """Weight of the outputs at noised inputs, beside 1 for those at the inputs themselves."""
    augmentation_noise: float = 0.5
    """Standard deviation of the noise, a multiple of the batch's rms coordinate, as `jitter` is."""


class NoiseAugmentation(TrainingTranscoder[Any]):
    """Matches the layer's outputs at x + noise as well: the same points as jittered Jacobian matching sees, and as
    many calls of the layer, but no derivative. What it achieves, Jacobian matching cannot claim. Goes in front of an
    architecture's class."""

    @override
    def get_coefficients(self) -> dict[str, float | TrainCoefficientConfig]:
        return {**super().get_coefficients(), "augmentation": self.cfg.augmentation_coefficient}

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        output = super().training_forward_pass(step_input)
        x = step_input.sae_in
        noise = gaussian(x, 1, self.matching.generator(x.device))[0]
        noised = x + self.cfg.augmentation_noise * x.square().mean().sqrt() * noise
        mse = self.mse_loss_fn(self(noised), self.target(noised)).sum(-1).mean()
        output.losses["augmentation_loss"] = step_input.coefficients["augmentation"] * mse
        output.loss = torch.stack(list(output.losses.values())).sum()
        self.check_finite(step_input, output)
        return output


@dataclass(kw_only=True)
class NoiseAugmentedTranscoderConfig(NoiseAugmentationConfig, StandardTrainingTranscoderConfig):
    """Config of `NoiseAugmentedTranscoder`."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "faithful_noise_augmented_transcoder"


class NoiseAugmentedTranscoder(NoiseAugmentation, StandardTrainingTranscoder):
    """The control with the architecture `StandardTrainingTranscoder`."""


@dataclass(kw_only=True)
class NoiseAugmentedTopKTranscoderConfig(NoiseAugmentationConfig, TopKTrainingTranscoderConfig):
    """Config of `NoiseAugmentedTopKTranscoder`."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "faithful_noise_augmented_topk_transcoder"


class NoiseAugmentedTopKTranscoder(NoiseAugmentation, TopKTrainingTranscoder):
    """The control with the architecture `TopKTrainingTranscoder`."""


@dataclass(kw_only=True)
class NoiseAugmentedBatchTopKTranscoderConfig(NoiseAugmentationConfig, BatchTopKTrainingTranscoderConfig):
    """Config of `NoiseAugmentedBatchTopKTranscoder`."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "faithful_noise_augmented_batch_topk_transcoder"


class NoiseAugmentedBatchTopKTranscoder(NoiseAugmentation, BatchTopKTrainingTranscoder):
    """The control with the architecture `BatchTopKTrainingTranscoder`."""


@dataclass(kw_only=True)
class NoiseAugmentedJumpReLUTranscoderConfig(NoiseAugmentationConfig, JumpReLUTrainingTranscoderConfig):
    """Config of `NoiseAugmentedJumpReLUTranscoder`."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "faithful_noise_augmented_jumprelu_transcoder"


class NoiseAugmentedJumpReLUTranscoder(NoiseAugmentation, JumpReLUTrainingTranscoder):
    """The control with the architecture `JumpReLUTrainingTranscoder`."""


for config_class, transcoder_class in (
    (NoiseAugmentedTranscoderConfig, NoiseAugmentedTranscoder),
    (NoiseAugmentedTopKTranscoderConfig, NoiseAugmentedTopKTranscoder),
    (NoiseAugmentedBatchTopKTranscoderConfig, NoiseAugmentedBatchTopKTranscoder),
    (NoiseAugmentedJumpReLUTranscoderConfig, NoiseAugmentedJumpReLUTranscoder),
):
    register_once(config_class.architecture(), transcoder_class, config_class)
