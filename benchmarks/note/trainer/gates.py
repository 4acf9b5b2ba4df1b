"""Which features are active, for n transcoders of one architecture at once: forward, and back to pre-activations.

Rows stand in blocks of batches (see `objective`): the data ("x"), points where Jacobians are compared ("base", or
"gate" where gates alone count), ends of secants ("plus", "minus"), augmented rows.
"""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.benchmarks.note.trainer.member import ToyMember
from faithfulness_plugin.benchmarks.note.trainer.weights import StackedWeights

FEW = 6  # largest values found faster one by one than by `topk`


class ReLUGate:
    """z where it is positive."""

    def __init__(self, members: Sequence[ToyMember], blocks: Mapping[str, slice]) -> None:
        self.configs: list[Any] = [member.transcoder for member in members]
        self.blocks = blocks

    def close(self, z: Float[Tensor, "n rows d_sae"], weights: StackedWeights) -> None:
        """Overwrite pre-activations by activations."""
        z.clamp_(min=0)

    def back(
        self, g: Float[Tensor, "n decoded d_sae"], acts: Tensor, weights: StackedWeights, gradients: StackedWeights
    ) -> None:
        """Overwrite the gradient to activations by that to pre-activations; the gate's own weights get theirs."""
        torch.ops.aten.threshold_backward.grad_input(g, acts, 0, grad_input=g)

    def learned(self) -> dict[str, Tensor]:
        """Return what each member learned without a gradient."""
        return {}


class TopKGate(ReLUGate):
    """The k largest of each row where positive; of exact ties for the last place all stay."""

    def __init__(self, members: Sequence[ToyMember], blocks: Mapping[str, slice]) -> None:
        super().__init__(members, blocks)
        self._k = torch.tensor([config.k for config in self.configs])[:, None, None]

    def close(self, z: Tensor, weights: StackedWeights) -> None:
        score = self.score(z, weights)
        z.mul_(score >= kth_largest(score, self._k.to(z.device))).clamp_(min=0)

    def score(self, z: Float[Tensor, "n rows d_sae"], weights: StackedWeights) -> Float[Tensor, "n rows d_sae"]:
        """Return what features are ranked by."""
        if not self.configs[0].rescale_acts_by_decoder_norm:
            return z
        return z * weights.W_dec.norm(dim=-1)[:, None]


class BatchTopKGate(TopKGate):
    """The k n largest of a batch of n rows; at the ends of secants those above the bound between the last that stays at
    their start and the first that does not. Learns the threshold for single rows, the moving average of the least
    score that stays in the data."""

    def __init__(self, members: Sequence[ToyMember], blocks: Mapping[str, slice]) -> None:
        super().__init__(members, blocks)
        device = torch.device(self.configs[0].device)
        rates = [config.topk_threshold_lr for config in self.configs]
        self._rate = torch.tensor(rates, dtype=torch.float64, device=device)
        self._threshold = torch.zeros_like(self._rate)
        self._start = "base" if "base" in blocks else "x"

    def close(self, z: Tensor, weights: StackedWeights) -> None:
        score = self.score(z, weights)
        z.clamp_(min=0)
        stay = torch.zeros_like(z, dtype=torch.bool)
        for name in self.blocks.keys() - {"plus", "minus"}:
            rows = self.blocks[name]
            for n, config in enumerate(self.configs):
                here = score[n, rows].flatten()
                # SAELens's own choice among ties: rows may be equal, and only so many stay
                stays = here.relu().topk(int(config.k * (rows.stop - rows.start))).indices
                stay[n, rows] = (
                    torch.zeros_like(here, dtype=torch.bool).index_fill_(0, stays, True).view_as(stay[n, rows])
                )
        for name in self.blocks.keys() & {"plus", "minus"}:
            self._ends(score, stay, self.blocks[name])
        z.mul_(stay)
        self._learn(score[:, self.blocks["x"]], z[:, self.blocks["x"]] > 0)

    def _ends(self, score: Tensor, stay: Tensor, rows: slice) -> None:
        """Fill `stay` in these rows. Those that did not move keep the features of their start."""
        start = self.blocks[self._start]
        bound = torch.stack(
            [self._bound(each, config.k) for each, config in zip(score[:, start], self.configs, strict=True)]
        )[:, None, None, None]
        ends = score[:, rows].unflatten(1, (-1, start.stop - start.start))
        stay[:, rows] = ((ends > bound) | ((ends == bound) & stay[:, None, start])).flatten(1, 2)

    def _bound(self, score: Float[Tensor, "batch d_sae"], k: float) -> Float[Tensor, ""]:
        """Return one member's bound, half-way between the last that stays and the first that does not, at least 0."""
        flat, count = score.flatten(), int(k * len(score))
        if not 0 < count < len(flat):
            return flat.new_tensor(0.0 if count else inf)
        return flat.topk(count + 1).values[-2:].mean().clamp(min=0)

    def _learn(self, score: Tensor, active: Tensor) -> None:
        least = torch.where(active, score, inf).amin((1, 2)).double()
        moved = (1 - self._rate) * self._threshold + self._rate * least
        self._threshold = torch.where(least < inf, moved, self._threshold)

    def learned(self) -> dict[str, Tensor]:
        return {"topk_threshold": self._threshold}


class JumpReLUGate(ReLUGate):
    """z where it is above its feature's threshold, which is trained as SAELens does: straight through a rectangle of
    the bandwidth's width."""

    def __init__(self, members: Sequence[ToyMember], blocks: Mapping[str, slice]) -> None:
        super().__init__(members, blocks)
        self.bandwidth: float = self.configs[0].jumprelu_bandwidth
        self.near: Tensor | None = None
        """1 where z is within the rectangle, [n, rows, d_sae]."""

    def close(self, z: Tensor, weights: StackedWeights) -> None:
        assert weights.threshold is not None
        threshold = weights.threshold.clamp_(min=0)[:, None]
        self.near = ((z - threshold).abs_() < self.bandwidth / 2).to(z.dtype)
        z.mul_(z > threshold)

    def back(self, g: Tensor, acts: Tensor, weights: StackedWeights, gradients: StackedWeights) -> None:
        assert weights.threshold is not None
        assert gradients.threshold is not None
        assert self.near is not None
        of_gate = (self.near[:, : g.shape[1]] * g).sum(1)
        gradients.threshold.sub_(of_gate * weights.threshold / self.bandwidth)
        super().back(g, acts, weights, gradients)


GATES: dict[str, type[ReLUGate]] = {
    "faithful_standard_transcoder": ReLUGate,
    "faithful_topk_transcoder": TopKGate,
    "faithful_batch_topk_transcoder": BatchTopKGate,
    "faithful_jumprelu_transcoder": JumpReLUGate,
}
"""The gate of each config's architecture."""


def kth_largest(values: Float[Tensor, "n rows d"], k: Tensor) -> Float[Tensor, "n rows 1"]:
    """Return the k-th largest distinct value of each row, k [n, 1, 1]; -inf where there are fewer."""
    most = int(k.max())
    if most > FEW:
        return values.topk(most, dim=-1).values.gather(-1, (k - 1).expand(-1, values.shape[1], 1))
    found = largest = values.amax(-1, keepdim=True)
    for rank in range(1, most):
        largest = torch.where(values < largest, values, -inf).amax(-1, keepdim=True)
        found = torch.where(k > rank, largest, found)
    return found
