"""The base of all transcoders here: the training step, with the Jacobian term."""

from abc import ABC
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float
from sae_lens.saes.sae import (
    TrainCoefficientConfig,
    TrainingSAE,
    TrainStepInput,
    TrainStepOutput,
)
from torch import Tensor, nn
from typing_extensions import override

from faithfulness_plugin.jacobian.dense_region import region_of_activations
from faithfulness_plugin.jacobian.linear_region import LinearRegion, Weights, add_skip, linear_region
from faithfulness_plugin.jacobian.matching import JacobianMatching
from faithfulness_plugin.jacobian.packed_rows import PackedRows
from faithfulness_plugin.transcoders.config import TrainingTranscoderConfig
from faithfulness_plugin.transcoders.encoder import Encoder
from faithfulness_plugin.transcoders.learns_from_layer import LearnsFromLayer
from faithfulness_plugin.transcoders.skip import SkipInDecode

MATCHING_FILENAME = "jacobian_matching.pt"


class NonFiniteError(ValueError):
    """NaN or Inf met in training or on export; the message names the tensor, and the step."""


T_CONFIG = TypeVar("T_CONFIG", bound=TrainingTranscoderConfig)


@dataclass
class TranscoderStepInput(TrainStepInput):
    """The input of auxiliary losses: `sae_in` is the target f(x), as SAELens's own losses want it."""

    x: Tensor
    """The inputs [..., d_in]."""


class TrainingTranscoder(SkipInDecode, LearnsFromLayer, Encoder, TrainingSAE[T_CONFIG], ABC):
    """A sparse replacement t(x) = W_dec act(W_enc x + b_enc) + b_dec (+ W_skip x) of a layer f, trained on

    mean_rows ||t(x) - f(x)||^2 + the subclass's own terms + jacobian_coefficient * the Jacobian term
    + gradient_masking_coefficient * the gradient-masking penalty.

    It is given x only; f and J_f v come from `set_layer`. The layer stays outside the module tree: it is
    neither trained, nor moved, nor saved. Weights: W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_out],
    b_dec [d_out], and W_skip [d_out, d_in] with `skip`.
    """

    b_enc: nn.Parameter

    def __init__(self, cfg: T_CONFIG) -> None:
        super().__init__(cfg)
        self.matching = self.new_matching()
        self.set_layer(None)

    def new_matching(self) -> Any:
        """Build the Jacobian term.

        Returns:
            `JacobianMatching` of the config.
        """
        return JacobianMatching(self.cfg.jacobian)

    @override
    def initialize_weights(self) -> None:
        """Draw both matrices uniformly in +-1/sqrt(fan-in), untied; set biases and skip to 0. At this scale the
        trainer's gradient clip (norm 1) does not hold features back."""
        cfg, options = self.cfg, {"dtype": self.dtype, "device": self.device}
        # +-1 / sqrt(fan-in): d_in for W_enc [d_in, d_sae], d_sae for W_dec [d_sae, d_out]
        W_enc = torch.empty(cfg.d_in, cfg.d_sae, **options).uniform_(-(cfg.d_in**-0.5), cfg.d_in**-0.5)
        W_dec = torch.empty(cfg.d_sae, cfg.d_out, **options).uniform_(-(cfg.d_sae**-0.5), cfg.d_sae**-0.5)
        if cfg.decoder_init_norm is not None:
            W_dec *= cfg.decoder_init_norm / W_dec.norm(dim=-1, keepdim=True)
        self.W_enc, self.W_dec = nn.Parameter(W_enc), nn.Parameter(W_dec)
        self.b_enc = nn.Parameter(torch.zeros(cfg.d_sae, **options))
        self.b_dec = nn.Parameter(torch.zeros(cfg.d_out, **options))
        if cfg.skip:
            self.W_skip = nn.Parameter(torch.zeros(cfg.d_out, cfg.d_in, **options))

    @override
    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Compute t(x). Error terms are added by the attached model (`add_sae(..., use_error_term=True)`)."""
        return self.hook_sae_output(self.decode(self.encode(x)))

    @override
    def process_sae_in(self, sae_in: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """Cast to the transcoder's dtype and fire hook_sae_input. Raises ValueError for rows that are not d_in wide."""
        self._require_width(sae_in)
        return self.hook_sae_input(sae_in.to(self.dtype))

    def _require_width(self, x: Tensor) -> None:
        if x.shape[-1] != self.cfg.d_in:
            raise ValueError(
                f"the inputs are {x.shape[-1]} wide (shape {list(x.shape)}) but the transcoder has "
                f"d_in={self.cfg.d_in}: pass [..., {self.cfg.d_in}]"
            )

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """Compute a step's losses by name. The output's `sae_in` is the target f(x), as SAELens's logging wants it."""
        self.prepare_step()
        batch = step_input.sae_in.clone() if step_input.sae_in.is_inference() else step_input.sae_in
        x, y, targets = self._ask(batch)  # [..., d_in], [..., d_out], and probes with the layer's products
        y = self.as_target(x, y)
        # one encoding of x for the output, the penalties and J_t v
        region = self.encode_to_region(x, None if targets is None else self.matching.config.gate_bandwidth)
        hidden_pre = cast(Tensor, region.hidden_pre)  # [..., d_sae], for losses that revive features
        sae_out = self.output_at(x, region)
        losses = {"mse_loss": mean_over_rows(self.mse_loss_fn(sae_out, y))}  # sums over d_out, mean over rows
        aux_input = TranscoderStepInput(**{**vars(step_input), "sae_in": y}, x=x)
        losses |= cast(dict[str, Tensor], self.calculate_aux_loss(aux_input, region.feature_acts, hidden_pre, sae_out))
        if self.cfg.gradient_masking_coefficient > 0:
            losses["gradient_masking_loss"] = step_input.coefficients["gradient_masking"] * region.masking()
        metrics: dict[str, Any] = {}
        if targets is not None:
            gate = region if targets.x is x else None  # jittered inputs open other gates
            targets = targets.to(self.dtype)  # the layer answered in its own
            jacobian_loss = self.matching.from_targets(self, targets, gate=gate)
            losses["jacobian_loss"] = step_input.coefficients["jacobian"] * jacobian_loss
            # computed when it is logged
            metrics["jacobian_relative_error"] = lambda: self.matching.relative_error(jacobian_loss, targets)
        output = TrainStepOutput(
            sae_in=y,
            sae_out=sae_out,
            feature_acts=region.feature_acts,
            hidden_pre=hidden_pre,
            loss=torch.stack(list(losses.values())).sum(),
            losses=losses,
            metrics=metrics,
        )
        self.check_finite(step_input, output)
        output.metrics |= self.finish_step(region.feature_acts)
        return output

    def output_at(self, x: Float[Tensor, "*batch d_in"], region: LinearRegion) -> Float[Tensor, "*batch d_out"]:
        """Compute the output of a training step.

        Args:
            x: the rows.
            region: the linear region there.

        Returns:
            t(x), with the skip connection.
        """
        return add_skip(self.hook_sae_recons(region.decode()), x, region.weights.W_skip)

    def _ask(self, batch: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Return x, f(x), and what the Jacobian is matched to, if it is: what `matching.targets` returns."""
        layer, matched = self.given_layer, self.cfg.jacobian_coefficient > 0
        if isinstance(layer, PackedRows):
            response, known = layer.unpack(batch), layer.known
            x, y, *_ = response
            if not matched or known is None:
                return x, y, self.matching.targets_of(response) if matched else None
            # a rounded y is a fine target, but a difference quotient would divide its error by the step
            return x, y, self.matching.targets(known, x, y=y if known.exact else None)
        self._require_width(batch)
        if matched and self.matching.config.at_inputs:  # one pass of the layer for f(x) and its derivative
            targets = self.matching.targets(layer, batch)
            return batch, targets.y, targets
        y = self.target(batch)
        return batch, y, self.matching.targets(layer, batch, y=y) if matched else None

    @override
    def save_model(self, path: str | Path) -> tuple[Path, Path]:
        """Write what SAELens writes, and the probes' random generator, so that a resumed run draws the same ones."""
        written = super().save_model(path)
        if state := self.matching.state_dict():
            torch.save(state, Path(path) / MATCHING_FILENAME)
        return written

    @override
    def save_inference_model(self, path: str | Path) -> tuple[Path, Path]:
        """Write what SAELens writes. Raises NonFiniteError, naming the weight, where one holds NaN or Inf."""
        for name, weight in self.state_dict().items():
            if not torch.isfinite(weight).all():
                raise NonFiniteError(
                    f"NaN or Inf in the weight {name}: nothing was written; train the transcoder again"
                )
        return super().save_inference_model(path)

    @override
    def load_weights_from_checkpoint(self, checkpoint_path: Path | str) -> None:
        """Load what SAELens loads, and the probes' random generator where the checkpoint has it."""
        super().load_weights_from_checkpoint(checkpoint_path)
        state = Path(checkpoint_path) / MATCHING_FILENAME
        if state.exists():
            self.matching.load_state_dict(torch.load(state, map_location="cpu", weights_only=True))

    @override
    def get_coefficients(self) -> dict[str, float | TrainCoefficientConfig]:
        coefficients: dict[str, float | TrainCoefficientConfig] = {}
        if self.cfg.jacobian_coefficient > 0:
            warm_up = self.cfg.jacobian_warm_up_steps
            coefficients["jacobian"] = TrainCoefficientConfig(self.cfg.jacobian_coefficient, warm_up)
        if self.cfg.gradient_masking_coefficient > 0:
            coefficients["gradient_masking"] = self.cfg.gradient_masking_coefficient
        return coefficients

    def check_finite(self, step_input: TrainStepInput, output: TrainStepOutput) -> None:
        """Check the inputs and the loss of a step for NaN and Inf.

        Args:
            step_input: what the step was given.
            output: what it computed.

        Raises:
            NonFiniteError: one of them holds some; the message names the step and the first tensor that does.
        """
        x = step_input.sae_in
        if torch.isfinite(output.loss) & torch.isfinite(x).all():
            return
        weights = {f"the weight {name}": weight for name, weight in self.named_parameters()}
        # causes before consequences
        suspects = {"the inputs": x, "the layer's output": output.sae_in, **weights, **output.losses}
        culprit = next((name for name, tensor in suspects.items() if not torch.isfinite(tensor).all()), "the loss")
        raise NonFiniteError(
            f"step {step_input.n_training_steps}: NaN or Inf in {culprit}; training stopped, and the last "
            "checkpoint is as it was. Check the data and the layer at this step"
        )


def mean_over_rows(values: Float[Tensor, "*batch width"]) -> Float[Tensor, ""]:
    """Average the sums of rows. Rows first: a sum over all would overflow in half precision.

    Args:
        values: one number per row and coordinate, or feature.

    Returns:
        The mean over rows of the sums; 0 for no rows.
    """
    sums = values.sum(-1)  # [...], one number a row
    return (sums / max(1, sums.numel())).sum()


@linear_region.register
def _training_transcoder_region(
    transcoder: TrainingTranscoder,
    x: Tensor,
    *,
    gate: Tensor | LinearRegion | None = None,
    gate_bandwidth: float | None = None,
) -> LinearRegion:
    if gate is None:
        return transcoder.encode_to_region(x, gate_bandwidth)
    return region_of_activations(gate, x, Weights.of(transcoder), gate_bandwidth)
