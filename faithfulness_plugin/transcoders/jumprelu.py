"""The JumpReLU transcoder: SAELens's JumpReLU training, with a layer as the target."""

from dataclasses import dataclass
from typing import Any

import torch
from sae_lens.saes.jumprelu_sae import JumpReLU, JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
from sae_lens.saes.sae import SAEConfig, TrainCoefficientConfig, TrainStepInput
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.transcoders.base import TrainingTranscoder
from faithfulness_plugin.transcoders.config import TrainingTranscoderConfig, require_non_negative
from faithfulness_plugin.transcoders.gates import straight_through


@dataclass(kw_only=True)
class JumpReLUTrainingTranscoderConfig(TrainingTranscoderConfig, JumpReLUTrainingSAEConfig):
    """Config of `JumpReLUTrainingTranscoder`: the common fields, and SAELens's own for JumpReLU."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "faithful_jumprelu_transcoder"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("l0_coefficient", "l0_warm_up_steps", "jumprelu_init_threshold"):
            require_non_negative(self, name)
        if self.jumprelu_bandwidth <= 0:
            raise ValueError(f"jumprelu_bandwidth={self.jumprelu_bandwidth}: a width is positive")
        if self.jumprelu_sparsity_loss_mode not in ("step", "tanh", "quadratic"):
            raise ValueError(
                f"jumprelu_sparsity_loss_mode={self.jumprelu_sparsity_loss_mode!r} is unknown: "
                "choose 'step', 'tanh' or 'quadratic'"
            )

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        return self.jumprelu_config_class()


class JumpReLUTrainingTranscoder(  # pyright: ignore[reportGeneralTypeIssues]  our config is also SAELens's
    TrainingTranscoder[JumpReLUTrainingTranscoderConfig], JumpReLUTrainingSAE
):
    """t(x) = W_dec (z * 1[z > threshold]) + b_dec (+ W_skip x) with z = W_enc x + b_enc, a threshold per feature.

    Activation, straight-through gradients, sparsity loss and dead-feature loss (`pre_act_loss_coefficient`) are
    SAELens's. `jacobian={"gate_bandwidth": ...}` lets the Jacobian term train thresholds as well.

    Exported as SAELens's stock "jumprelu_transcoder" or "jumprelu_skip_transcoder".
    """

    cfg: JumpReLUTrainingTranscoderConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    @override
    @torch.no_grad()
    def prepare_step(self) -> None:
        # projected, not clamped in the graph, where a threshold below 0 would stay for good
        self.threshold.data.clamp_(min=0.0)

    def _positive_threshold(self, dtype: torch.dtype) -> Tensor:
        """Clamp thresholds [d_sae] at 0: an optimizer step may leave some below, where negative values would pass."""
        return self.threshold.clamp_min(0).to(dtype)

    @override
    def activate(self, hidden_pre: Tensor) -> Tensor:
        threshold = self._positive_threshold(hidden_pre.dtype)
        if self.training and torch.is_grad_enabled():
            rows = hidden_pre.reshape(-1, self.cfg.d_sae)  # SAELens sums the thresholds' gradient over one dimension
            acts: Any = JumpReLU.apply(rows, threshold, self.bandwidth, self.cfg.jumprelu_ste_to_input)
            return acts.view_as(hidden_pre)
        # without thresholds to train, in operations that any mode of differentiation knows
        return hidden_pre * (hidden_pre > threshold)

    @override
    def straight_through_gate(self, feature_acts: Tensor, hidden_pre: Tensor, bandwidth: float) -> Tensor:
        return straight_through(feature_acts, hidden_pre, self._positive_threshold(hidden_pre.dtype), bandwidth)

    @override
    def calculate_aux_loss(
        self, step_input: TrainStepInput, feature_acts: Tensor, hidden_pre: Tensor, sae_out: Tensor
    ) -> dict[str, Tensor]:
        losses = JumpReLUTrainingSAE.calculate_aux_loss(self, step_input, feature_acts, hidden_pre, sae_out)
        # SAELens's means over rows are NaN where there are none
        return losses if hidden_pre.numel() else {name: loss.new_zeros(()) for name, loss in losses.items()}

    @override
    def get_coefficients(self) -> dict[str, float | TrainCoefficientConfig]:
        return {**JumpReLUTrainingSAE.get_coefficients(self), **super().get_coefficients()}

    @override
    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        super().process_state_dict_for_saving_inference(state_dict)
        # in training always float32, and below 0 until it is next used
        state_dict["threshold"] = state_dict["threshold"].clamp(min=0.0).to(self.dtype)
