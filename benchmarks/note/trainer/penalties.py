"""What n transcoders of one architecture pay for their features, with the gradients written out."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.benchmarks.note.trainer.program import Coefficients, Program
from faithfulness_plugin.benchmarks.note.trainer.weights import StackedWeights


class Activity(NamedTuple):
    """The data's features."""

    acts: Float[Tensor, "n batch d_sae"]
    g_acts: Float[Tensor, "n batch d_sae"]
    """The gradient to them, to which a penalty adds its own."""
    near: Float[Tensor, "n batch d_sae"] | None
    """JumpReLU: 1 where a pre-activation is within the threshold's rectangle."""


class WrittenPenalty:
    """coefficient * mean_rows sum_i g(a_i ||W_dec^i||), g the identity ("l1") or tanh of scale times it ("tanh")."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind, self.name = kind, name
        self._buffers: tuple[Tensor, Tensor] | None = None

    def __call__(
        self,
        activity: Activity,
        weights: StackedWeights,
        coefficients: Coefficients,
        gradients: StackedWeights,
        log: bool,
    ) -> dict[str, Tensor]:
        """Return the loss by name; add its gradient to that of the activations and of W_dec."""
        acts, batch = activity.acts, activity.acts.shape[1]
        if self._buffers is None:  # fresh memory at each step would cost more than computing the results
            self._buffers = torch.empty_like(acts), torch.empty_like(acts)
        weighted, scratch = self._buffers
        norms = weights.W_dec.norm(dim=-1)
        each = (coefficients.sparsity[:, None] / batch) * norms
        losses = {}
        if self.kind == "l1":
            weighted.fill_(1)
            if log:
                losses[self.name] = (each * acts.sum(1)).sum(1)
        else:
            # with E = exp(-2 s a), a >= 0: tanh(s a) = (1 - E) / (1 + E), and its slope in a is s 4 E / (1 + E)^2.
            # exp is four times faster than tanh here
            scale = coefficients.tanh_scale[:, None]
            torch.mul(acts, (-2 * scale * norms)[:, None], out=weighted).exp_()
            torch.add(weighted, 1, out=scratch)
            if log:
                losses[self.name] = coefficients.sparsity / batch * ((1 - weighted) / scratch).sum((1, 2))
            weighted.div_(scratch).div_(scratch)
            each = 4 * scale * each
        activity.g_acts.addcmul_(weighted, each[:, None])
        of_norm = torch.mul(weighted, acts, out=scratch).sum(1) * each  # norm times the derivative by the norm
        gradients.W_dec.addcmul_((of_norm / norms.square()).nan_to_num_(0.0, 0.0, 0.0)[..., None], weights.W_dec)
        return losses


class CountPenalty:
    """coefficient * the mean number of active features, whose gradient goes to JumpReLU's thresholds: straight through
    a rectangle of the bandwidth's width."""

    def __init__(self, bandwidth: float) -> None:
        self.bandwidth = bandwidth

    def __call__(
        self,
        activity: Activity,
        weights: StackedWeights,
        coefficients: Coefficients,
        gradients: StackedWeights,
        log: bool,
    ) -> dict[str, Tensor]:
        """Return the loss by name; add its gradient to the thresholds'."""
        assert activity.near is not None
        assert gradients.threshold is not None
        each = coefficients.sparsity / activity.acts.shape[1]
        gradients.threshold.sub_(each[:, None] / self.bandwidth * activity.near.sum(1))
        return {"l0_loss": each * (activity.acts > 0).sum((1, 2))} if log else {}


Penalty = Callable[[Activity, StackedWeights, Coefficients, StackedWeights, bool], dict[str, Tensor]]
"""(activity, weights, coefficients, gradients, log) -> the loss by name, its gradient being added."""


def penalty_of(program: Program) -> Penalty | None:
    """Return the architecture's penalty, or None where it has none."""
    if program.sparsity is None:
        return None
    if program.sparsity == "step":
        assert program.bandwidth is not None
        return CountPenalty(program.bandwidth)
    return WrittenPenalty(program.sparsity, "sparsity_loss" if program.bandwidth is None else "l0_loss")
