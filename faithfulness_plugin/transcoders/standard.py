"""The ReLU transcoder with a sparsity penalty."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from sae_lens.saes.sae import TrainCoefficientConfig, TrainStepInput
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.transcoders.base import TrainingTranscoder, mean_over_rows
from faithfulness_plugin.transcoders.config import TrainingTranscoderConfig, require_non_negative
from faithfulness_plugin.transcoders.gates import straight_through


@dataclass(kw_only=True)
class StandardTrainingTranscoderConfig(TrainingTranscoderConfig):
    """Config of `StandardTrainingTranscoder`."""

    sparsity: Literal["tanh", "l1"] = "tanh"
    """The penalty's shape: "tanh" saturates and so stays near a count of active features; "l1" does not."""
    sparsity_coefficient: float = 0.2
    """Weight of the penalty."""
    sparsity_warm_up_steps: int = 0
    """Steps over which that weight grows linearly from 0."""
    tanh_scale: float = 1.0
    """s in tanh(s a): the larger, the smaller the activation at which the penalty saturates."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "faithful_standard_transcoder"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sparsity not in ("tanh", "l1"):
            raise ValueError(f"sparsity={self.sparsity!r} is unknown: choose 'tanh' or 'l1'")
        for name in ("sparsity_coefficient", "sparsity_warm_up_steps", "tanh_scale"):
            require_non_negative(self, name)
        if self.tanh_scale == 0:
            raise ValueError("tanh_scale=0.0 leaves no penalty: choose a positive scale, or sparsity_coefficient=0")


class StandardTrainingTranscoder(TrainingTranscoder[StandardTrainingTranscoderConfig]):
    """t(x) = W_dec ReLU(W_enc x + b_enc) + b_dec (+ W_skip x), with the penalty, a mean over rows of

    sparsity_coefficient * sum_i g(a_i ||W_dec^i||),  g(a) = tanh(tanh_scale * a) or a.

    Exported (`save_inference_model`) as SAELens's stock "transcoder" or "skip_transcoder".
    """

    cfg: StandardTrainingTranscoderConfig

    @override
    def encode_with_hidden_pre(
        self, x: Float[Tensor, "*batch d_in"]
    ) -> tuple[Float[Tensor, "*batch d_sae"], Float[Tensor, "*batch d_sae"]]:
        hidden_pre = self.hook_sae_acts_pre(self.process_sae_in(x) @ self.W_enc + self.b_enc)
        return self.hook_sae_acts_post(self.activation_fn(hidden_pre)), hidden_pre

    @override
    def straight_through_gate(self, feature_acts: Tensor, hidden_pre: Tensor, bandwidth: float) -> Tensor:
        return straight_through(feature_acts, hidden_pre, hidden_pre.new_zeros(()), bandwidth)

    @override
    def get_coefficients(self) -> dict[str, float | TrainCoefficientConfig]:
        sparsity = TrainCoefficientConfig(self.cfg.sparsity_coefficient, self.cfg.sparsity_warm_up_steps)
        return {"sparsity": sparsity, **super().get_coefficients()}

    @override
    def calculate_aux_loss(
        self, step_input: TrainStepInput, feature_acts: Tensor, hidden_pre: Tensor, sae_out: Tensor
    ) -> dict[str, Tensor]:
        weighted = feature_acts * self.W_dec.norm(dim=-1)
        if self.cfg.sparsity == "tanh":
            weighted = torch.tanh(self.cfg.tanh_scale * weighted)
        return {"sparsity_loss": step_input.coefficients["sparsity"] * mean_over_rows(weighted)}
