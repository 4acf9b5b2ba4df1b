"""The objective of this package's transcoders, for n of them in one batched computation. Per member, as its
`training_forward_pass`:

    mean_rows ||t(x) - f(x)||^2 + what the architecture asks for its features + jacobian * the Jacobian term
    + masking * mean_rows sum_i 1[a_i > 0] ||W_enc^i|| ||W_dec^i|| + augmentation * mean_rows ||t(x') - f(x')||^2

No loss of a member depends on the weights of another, so that the gradient of the sum over members is each one's own.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.benchmarks.note.trainer.architectures import (
    ARCHITECTURES,
    Architecture,
    BatchTopK,
    mean_square,
)
from faithfulness_plugin.benchmarks.note.trainer.coefficients import Coefficient, numbers_of
from faithfulness_plugin.benchmarks.note.trainer.member import ToyMember
from faithfulness_plugin.benchmarks.note.trainer.streams import Batch
from faithfulness_plugin.benchmarks.note.trainer.weights import StackedWeights
from faithfulness_plugin.jacobian.dense_region import DenseRegion
from faithfulness_plugin.jacobian.estimators.secant import RowFunction, row_function
from faithfulness_plugin.jacobian.layer_response import LayerResponse
from faithfulness_plugin.jacobian.linear_region import LinearRegion, Weights, linear_region


class Stack(nn.Module):
    """n transcoders with their present weights, as one function [n, batch, d_in] -> [n, batch, d_out]. It has a
    `linear_region`, so that estimators compute its Jacobian's products as a single transcoder's."""

    def __init__(self, architecture: Architecture, weights: StackedWeights) -> None:
        super().__init__()
        self.architecture, self.weights = architecture, weights

    def encode_to_region(
        self, x: Float[Tensor, "n batch d_in"], gate_bandwidth: float | None = None, start: DenseRegion | None = None
    ) -> DenseRegion:
        """Encode each member's rows by its own weights.

        Args:
            x: each member's rows.
            gate_bandwidth: as in `linear_region`.
            start: where the way began that ends at x, for architectures whose rows compete for features.

        Returns:
            The region, whose activations are [n, batch, d_sae].
        """
        own = self.weights
        z = torch.baddbmm(own.b_enc[:, None], x, own.W_enc)  # [n, batch, d_sae]
        if start is not None and isinstance(self.architecture, BatchTopK):
            acts = self.architecture.activate_at_ends(z, start, own)
        else:
            acts = self.architecture.activate(z, own)
        # gates are 1 where acts > 0, with a gradient near the threshold: [n, batch, d_sae]
        gate = None if gate_bandwidth is None else self.architecture.gate(acts, z, own, gate_bandwidth)
        return DenseRegion(x, Weights(own.W_enc, own.W_dec, own.b_dec[:, None], own.W_skip), acts, z, gate)


@linear_region.register
def _region_of_stack(
    transcoder: Stack, x: Tensor, *, gate: LinearRegion | None = None, gate_bandwidth: float | None = None
) -> LinearRegion:
    return transcoder.encode_to_region(x, gate_bandwidth) if gate is None else gate


@row_function.register
def _row_function_of_stack(transcoder: Stack, x: Tensor, region: DenseRegion) -> RowFunction:
    del x
    return lambda moved, _: transcoder.encode_to_region(moved, start=region).output()


class Objective:
    """The losses of all members of one `Program`, by name.

    Args:
        members: of one program.
        dead_feature_window: as in `train_transcoder`.
    """

    def __init__(self, members: Sequence[ToyMember], dead_feature_window: int) -> None:
        configs: list[Any] = [member.transcoder for member in members]
        first = members[0]
        self.architecture = ARCHITECTURES[first.transcoder.architecture()](configs, dead_feature_window)
        self._matching = first.matching if first.matched else None
        self._masks = first.transcoder.gradient_masking_coefficient > 0
        self._jacobian = Coefficient(configs, "jacobian_coefficient", "jacobian_warm_up_steps")
        self._masking = numbers_of(configs, "gradient_masking_coefficient")
        self._augmentation = self._masking.new_tensor(
            [m.augmentation.coefficient if m.augmentation else 0.0 for m in members]
        )
        self._estimator = first.matching.build_estimator()

    def __call__(
        self, weights: StackedWeights, batch: Batch, step: int
    ) -> tuple[dict[str, Float[Tensor, " n"]], Float[Tensor, "n batch d_sae"]]:
        """Compute the losses, with a graph to the weights.

        Args:
            weights: of all members.
            batch: their rows, and what the layer does there.
            step: the number of the step, the first being 0.

        Returns:
            Each member's losses by name, and the activations of the data.
        """
        stack, matching = Stack(self.architecture, weights), self._matching
        gated_here = matching is not None and matching.jitter == 0  # jittered rows open other gates
        data = stack.encode_to_region(batch.x, matching.gate_bandwidth if matching and gated_here else None)
        error = data.output() - batch.y  # [n, batch, d_out]
        losses = {"mse_loss": mean_square(error)}
        losses |= self.architecture.losses(data, -error.detach(), weights, step)
        if self._masks:
            slopes = weights.W_enc.norm(dim=1) * weights.W_dec.norm(dim=2)  # [n, d_sae]
            share = data.is_active.to(slopes.dtype).mean(1)  # of the rows, [n, d_sae]
            losses["gradient_masking_loss"] = self._masking * (share * slopes).sum(1)
        if batch.response is not None:
            here = data if gated_here else None
            losses["jacobian_loss"] = self._jacobian.at(step) * self._mismatch(stack, batch.response, here)
        if batch.augmented is not None and batch.y_augmented is not None:
            moved = stack.encode_to_region(batch.augmented).output()  # [n, batch, d_out]
            losses["augmentation_loss"] = self._augmentation * mean_square(moved - batch.y_augmented)
        return losses, data.acts

    def _mismatch(self, stack: Stack, response: LayerResponse, gate: DenseRegion | None) -> Float[Tensor, " n"]:
        """Compute each member's Jacobian term, as `JacobianMatching.from_targets`."""
        x, _, v, of_layer, step, scale, *_ = response
        assert v is not None
        assert of_layer is not None
        assert scale is not None
        Jv = self._estimator.transcoder_products(stack, x, v, step, gate=gate)  # [n_probes, n, batch, d]
        # probes are summed over, and rows averaged: [n]
        energy = (Jv - of_layer).square().sum((0, 2, 3)) / x.shape[1]
        return scale * (energy if self._estimator.fixed_probes else energy / len(v))
