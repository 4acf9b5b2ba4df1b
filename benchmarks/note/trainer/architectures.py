"""The four architectures for n transcoders at once: which features are active, and what is paid for them.

Each is the stacked twin of the package's training class of the same config, whose losses and thresholds it computes
member by member: pre-activations are [n, batch, d_sae], and a loss is a number for each member.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import inf
from typing import Any

import torch
from jaxtyping import Float
from sae_lens.saes.jumprelu_sae import JumpReLU as JumpReLUFunction
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.benchmarks.note.trainer.coefficients import Coefficient, numbers_of
from faithfulness_plugin.benchmarks.note.trainer.weights import StackedWeights
from faithfulness_plugin.jacobian.dense_region import DenseRegion
from faithfulness_plugin.transcoders.gates import straight_through


class Architecture(ABC):
    """What the four have in common: ReLU, where a subclass does not say otherwise.

    Args:
        configs: of all members, equal in `program.OPTIONS`.
        dead_feature_window: steps without activity after which a feature counts as dead.
    """

    def __init__(self, configs: Sequence[Any], dead_feature_window: int) -> None:
        self.configs, self.config, self.window = configs, configs[0], dead_feature_window
        self.since_fired = torch.zeros(len(configs), self.config.d_sae, device=self.config.device)
        """Steps since each feature was last active, [n, d_sae]."""

    def activate(self, z: Float[Tensor, "n batch d_sae"], weights: StackedWeights) -> Float[Tensor, "n batch d_sae"]:
        """Compute activations from pre-activations.

        Args:
            z: pre-activations of each member's rows.
            weights: of all members.

        Returns:
            The activations, 0 where a feature is not active.
        """
        del weights
        return z.relu()

    def gate(
        self,
        acts: Float[Tensor, "n batch d_sae"],
        z: Float[Tensor, "n batch d_sae"],
        weights: StackedWeights,
        bandwidth: float,
    ) -> Float[Tensor, "n batch d_sae"]:
        """Make straight-through gates (see `transcoders.gates.straight_through`).

        Args:
            acts: what `activate` returned.
            z: the pre-activations.
            weights: of all members.
            bandwidth: width of the window around the threshold in which gates have a gradient.

        Returns:
            Gates: 1 where a feature is active, 0 elsewhere.
        """
        del weights
        return straight_through(acts, z, z.new_zeros(()), bandwidth)

    @abstractmethod
    def losses(
        self, data: DenseRegion, residual: Float[Tensor, "n batch d_out"], weights: StackedWeights, step: int
    ) -> dict[str, Float[Tensor, " n"]]:
        """Compute the architecture's own losses by name.

        Args:
            data: the region of the data, with its pre-activations.
            residual: what the transcoders leave of the layer's output, y - t(x), without a graph.
            weights: of all members.
            step: the number of the step, the first being 0.

        Returns:
            A number for each member, with a graph to the weights.
        """

    def _dead(self, acts: Float[Tensor, "n batch d_sae"]) -> Float[Tensor, "n d_sae"]:
        """Mark by 1 the features that had not fired for more than `window` steps before this one; count this one."""
        dead = (self.since_fired > self.window).to(acts.dtype)  # [n, d_sae]
        self.since_fired.add_(1).masked_fill_(acts.detach().amax(1) > 0, 0)
        return dead

    def learned(self) -> dict[str, Tensor]:
        """Collect the weights that no gradient trains.

        Returns:
            The weights by their names in `StackedWeights`.
        """
        return {}


class Standard(Architecture):
    """ReLU, and the penalty coefficient * mean_rows sum_i g(a_i ||W_dec^i||), g(u) = tanh(tanh_scale u) or u."""

    def __init__(self, configs: Sequence[Any], dead_feature_window: int) -> None:
        super().__init__(configs, dead_feature_window)
        self.coefficient = Coefficient(configs, "sparsity_coefficient", "sparsity_warm_up_steps")
        self.scale = numbers_of(configs, "tanh_scale")

    @override
    def losses(self, data: DenseRegion, residual: Tensor, weights: StackedWeights, step: int) -> dict[str, Tensor]:
        norms = weights.W_dec.norm(dim=-1)  # [n, d_sae]
        saturating = self.scale if self.config.sparsity == "tanh" else None
        return {"sparsity_loss": self.coefficient.at(step) * _magnitude(data.acts, norms, saturating)}


class TopK(Architecture):
    """The k largest of each row where positive, and the loss that revives dead features."""

    def __init__(self, configs: Sequence[Any], dead_feature_window: int) -> None:
        super().__init__(configs, dead_feature_window)
        self.k: float = self.config.k
        self.coefficient = numbers_of(configs, "aux_loss_coefficient")

    def _score(self, z: Float[Tensor, "n batch d_sae"], weights: StackedWeights) -> Float[Tensor, "n batch d_sae"]:
        """Compute what features are ranked by: z_i ||W_dec^i||, the norm without a graph, or z_i."""
        return z * weights.W_dec.detach().norm(dim=-1)[:, None] if self.config.rescale_acts_by_decoder_norm else z

    @override
    def activate(self, z: Tensor, weights: StackedWeights) -> Tensor:
        return z.relu() * _largest(self._score(z.detach(), weights), round(self.k))

    @override
    def gate(self, acts: Tensor, z: Tensor, weights: StackedWeights, bandwidth: float) -> Tensor:
        score = self._score(z, weights)
        return straight_through(acts, score, self._bound(score.detach()), bandwidth)

    def _bound(self, score: Float[Tensor, "n batch d_sae"]) -> Float[Tensor, "n #batch 1"]:
        """Compute the bound half-way between the last feature that stays and the first that does not, at least 0."""
        return _half_way(score, round(self.k))

    @override
    def losses(self, data: DenseRegion, residual: Tensor, weights: StackedWeights, step: int) -> dict[str, Tensor]:
        """Compute coefficient * mean_rows ||W_dec z_dead - (y - t(x))||^2 over the d_out / 2 dead features that are
        largest on each row: `TopKTrainingTranscoder.calculate_aux_loss`."""
        name, dead = "auxiliary_reconstruction_loss", self._dead(data.acts)  # [n, d_sae]
        if not dead.any():
            return {name: residual.new_zeros(len(residual))}
        assert data.hidden_pre is not None
        z, wanted = data.hidden_pre, max(1, residual.shape[-1] // 2)
        # only dead features compete: [n, batch, d_sae]
        score = self._score(z.detach(), weights).masked_fill(dead[:, None] == 0, -inf)
        revived = z * _largest(score, min(wanted, z.shape[-1])) * dead[:, None]
        error = torch.bmm(revived, weights.W_dec) - residual  # [n, batch, d_out]
        share = (dead.sum(1) / wanted).clamp(max=1)  # a few dead features cannot explain much
        return {name: self.coefficient * share * mean_square(error)}


class BatchTopK(TopK):
    """The k * batch largest of a batch's rows, however they fall on them; the loss is TopK's. Learns the threshold for
    single rows, the moving average of the least score that stays."""

    def __init__(self, configs: Sequence[Any], dead_feature_window: int) -> None:
        super().__init__(configs, dead_feature_window)
        self.rate = numbers_of(configs, "topk_threshold_lr").double()
        self.threshold = torch.zeros_like(self.rate)

    @override
    def activate(self, z: Tensor, weights: StackedWeights) -> Tensor:
        score = self._score(z.detach(), weights).relu().flatten(1)  # [n, batch * d_sae]
        return z.relu() * _largest(score, int(self.k * z.shape[1])).view_as(z)

    @override
    def _bound(self, score: Tensor) -> Tensor:
        return _half_way(score.flatten(1), int(self.k * score.shape[1]))[..., None]

    def activate_at_ends(
        self, z: Float[Tensor, "n batch d_sae"], start: DenseRegion, weights: StackedWeights
    ) -> Float[Tensor, "n batch d_sae"]:
        """Compute activations at the end of a secant: the bound that its start set holds on the way.

        Args:
            z: pre-activations at the end.
            start: the region where the secant starts, with its pre-activations.
            weights: of all members.

        Returns:
            The activations at the end.
        """
        assert start.hidden_pre is not None
        score, bound = self._score(z.detach(), weights), self._bound(self._score(start.hidden_pre.detach(), weights))
        rounding = 16 * torch.finfo(z.dtype).eps * bound.abs()
        # rows that did not move keep the features of their start
        tied = ((score - bound).abs() <= rounding) & start.is_active
        return z.relu() * ((score > bound + rounding) | tied)

    @override
    def losses(self, data: DenseRegion, residual: Tensor, weights: StackedWeights, step: int) -> dict[str, Tensor]:
        acts = data.acts.detach()  # [n, batch, d_sae]
        least = torch.where(acts > 0, self._score(acts, weights), inf).amin((1, 2)).double()
        # a batch in which nothing fires says nothing about the threshold
        moved = (1 - self.rate) * self.threshold + self.rate * least  # [n]
        self.threshold.copy_(torch.where(least < inf, moved, self.threshold))
        return super().losses(data, residual, weights, step)

    @override
    def learned(self) -> dict[str, Tensor]:
        return {"topk_threshold": self.threshold}


class JumpReLU(Architecture):
    """z where it is above its feature's threshold, trained as SAELens does, with its losses."""

    def __init__(self, configs: Sequence[Any], dead_feature_window: int) -> None:
        super().__init__(configs, dead_feature_window)
        self.coefficient = Coefficient(configs, "l0_coefficient", "l0_warm_up_steps")
        self.scale = numbers_of(configs, "jumprelu_tanh_scale")
        self.bandwidth: float = self.config.jumprelu_bandwidth
        self.to_input: bool = self.config.jumprelu_ste_to_input

    @override
    def activate(self, z: Tensor, weights: StackedWeights) -> Tensor:
        # rows first: SAELens sums the thresholds' gradient over the first dimension
        acts: Any = JumpReLUFunction.apply(z.transpose(0, 1), weights.threshold, self.bandwidth, self.to_input)
        return acts.transpose(0, 1)

    @override
    def gate(self, acts: Tensor, z: Tensor, weights: StackedWeights, bandwidth: float) -> Tensor:
        assert weights.threshold is not None
        return straight_through(acts, z, weights.threshold[:, None], bandwidth)

    @override
    def losses(self, data: DenseRegion, residual: Tensor, weights: StackedWeights, step: int) -> dict[str, Tensor]:
        """Compute the penalty of the number of features, and the one that opens dead features: SAELens's."""
        assert data.hidden_pre is not None
        assert weights.threshold is not None
        z, norms, config = data.hidden_pre, weights.W_dec.norm(dim=-1), self.config
        if config.jumprelu_sparsity_loss_mode == "tanh":
            penalty = _magnitude(data.acts, norms, self.scale)
        else:
            steps = self.gate(data.acts, z if self.to_input else z.detach(), weights, self.bandwidth)
            l0 = steps.sum(-1)  # [n, batch]
            quadratic = config.jumprelu_sparsity_loss_mode == "quadratic"
            penalty = (2 / config.target_l0 * (l0 - config.target_l0).square() if quadratic else l0).mean(-1)
        losses = {"l0_loss": self.coefficient.at(step) * penalty}
        if config.pre_act_loss_coefficient is not None:
            # how far a dead feature is below its threshold: [n, batch, d_sae]
            missing = (weights.threshold[:, None] - z).relu() * (self._dead(data.acts) * norms)[:, None]
            losses["pre_act_loss"] = config.pre_act_loss_coefficient * missing.sum(-1).mean(-1)
        return losses


ARCHITECTURES: dict[str, type[Architecture]] = {
    "faithful_standard_transcoder": Standard,
    "faithful_topk_transcoder": TopK,
    "faithful_batch_topk_transcoder": BatchTopK,
    "faithful_jumprelu_transcoder": JumpReLU,
}
"""By the architecture of the config."""


def mean_square(error: Float[Tensor, "n batch d"]) -> Float[Tensor, " n"]:
    """Average each member's ||error||^2 over its rows.

    Args:
        error: a vector for each row.

    Returns:
        A number for each member.
    """
    return error.square().sum((1, 2)) / error.shape[1]


def _magnitude(
    acts: Float[Tensor, "n batch d_sae"], norms: Float[Tensor, "n d_sae"], scale: Float[Tensor, " n"] | None
) -> Float[Tensor, " n"]:
    """Average sum_i g(a_i norm_i) over each member's rows, with g(u) = tanh(scale u), or u for no scale."""
    if scale is None:
        return (acts.sum(1) * norms).sum(1) / acts.shape[1]
    # tanh(u) = 2 sigmoid(2 u) - 1, and torch's sigmoid is six times faster on a CPU
    doubled = acts * (2 * scale[:, None] * norms)[:, None]
    return 2 * (doubled.sigmoid() - 0.5).sum((1, 2)) / acts.shape[1]


def _largest(score: Float[Tensor, "*rows d"], k: int) -> Float[Tensor, "*rows d"]:
    """Mark the k largest of each row by 1, the others by 0."""
    return torch.zeros_like(score).scatter_(-1, score.topk(k, dim=-1, sorted=False).indices, 1)


def _half_way(score: Float[Tensor, "*rows d"], k: int) -> Float[Tensor, "*rows 1"]:
    """Compute each row's bound half-way between its k-th largest and the next, at least 0."""
    if not 0 < k < score.shape[-1]:
        return score.new_full((*score.shape[:-1], 1), 0.0 if k else inf)
    return score.topk(k + 1, dim=-1).values[..., -2:].mean(-1, keepdim=True).clamp_min(0)
