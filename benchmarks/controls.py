"""Controls: what a method must be held against before its effect is called its own."""

from dataclasses import dataclass

from sae_lens.saes.sae import TrainCoefficientConfig, TrainStepInput, TrainStepOutput
from typing_extensions import override

from faithfulness_plugin.probes import gaussian
from faithfulness_plugin.transcoders.base import register_once
from faithfulness_plugin.transcoders.standard import StandardTrainingTranscoder, StandardTrainingTranscoderConfig


@dataclass(kw_only=True)
class NoiseAugmentedTranscoderConfig(StandardTrainingTranscoderConfig):
    """Config of `NoiseAugmentedTranscoder`."""

    augmentation_coefficient: float = 1.0
    """Weight of the outputs at noised inputs, beside 1 for those at the inputs themselves."""
    augmentation_noise: float = 0.5
    """Standard deviation of the noise, a multiple of the batch's rms coordinate, as `jitter` is."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "faithful_noise_augmented_transcoder"


class NoiseAugmentedTranscoder(StandardTrainingTranscoder):
    """Matches the layer's outputs at x + noise as well: the same points as jittered Jacobian matching sees, and as
    many calls of the layer, but no derivative. What it achieves, Jacobian matching cannot claim."""

    cfg: NoiseAugmentedTranscoderConfig  # pyright: ignore[reportIncompatibleVariableOverride]

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
        output.loss = output.loss + output.losses["augmentation_loss"]
        self.check_finite(step_input, output)
        return output


register_once(NoiseAugmentedTranscoderConfig.architecture(), NoiseAugmentedTranscoder, NoiseAugmentedTranscoderConfig)
