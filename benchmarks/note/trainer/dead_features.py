"""The loss that revives dead features of TopK transcoders, for n of them at once."""

from collections.abc import Sequence
from math import inf
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.benchmarks.note.trainer.member import ToyMember
from faithfulness_plugin.benchmarks.note.trainer.weights import StackedWeights


class DeadFeatures:
    """The d_out / 2 dead features that are largest on each row regress on what the others leave, y - t(x): the loss of
    `TopKTrainingTranscoder.calculate_aux_loss`. Dead is what has not fired for more than `window` steps."""

    def __init__(self, members: Sequence[ToyMember], window: int) -> None:
        configs: list[Any] = [member.transcoder for member in members]
        first = configs[0]
        device = torch.device(first.device)
        self.window, self._wanted, self._by_norm = window, max(1, first.d_out // 2), first.rescale_acts_by_decoder_norm
        self._coefficient = torch.tensor(
            [config.aux_loss_coefficient for config in configs], dtype=torch.float64, device=device
        )
        self.since_fired = torch.zeros(len(members), first.d_sae, device=device)

    def __call__(
        self,
        x: Float[Tensor, "n batch d_in"],
        acts: Float[Tensor, "n batch d_sae"],
        residual: Float[Tensor, "n batch d_out"],
        weights: StackedWeights,
        gradients: StackedWeights,
        log: bool,
    ) -> dict[str, Tensor]:
        """Return the loss by name and add its gradient; count the steps since each feature fired."""
        dead = (self.since_fired > self.window) & (self._coefficient > 0)[:, None]
        self.since_fired.add_(1).masked_fill_((acts > 0).any(1), 0)
        name = "auxiliary_reconstruction_loss"
        if not dead.any():
            return {name: residual.new_zeros(len(x))} if log else {}
        selected, revived_acts = self._largest(x, dead, weights)
        n_dead = dead.sum(1)
        share = (n_dead / self._wanted).clamp(max=1)  # a few dead features cannot explain much
        weight = (self._coefficient.to(x.dtype) * share / x.shape[1])[:, None, None]
        error = torch.bmm(revived_acts, weights.W_dec).sub_(residual)
        g_out = 2 * weight * error
        g_acts = torch.bmm(g_out, weights.W_dec.mT).mul_(selected)
        gradients.W_dec.baddbmm_(revived_acts.mT, g_out)
        gradients.W_enc.baddbmm_(x.mT, g_acts)
        gradients.b_enc.add_(g_acts.sum(1))
        return {name: (weight * error.square()).sum((1, 2))} if log else {}

    def _largest(self, x: Tensor, dead: Tensor, weights: StackedWeights) -> tuple[Tensor, Tensor]:
        """Return where a dead feature is among the largest of its row, as 1, and its pre-activation there."""
        z = torch.baddbmm(weights.b_enc[:, None], x, weights.W_enc)
        score = z * weights.W_dec.norm(dim=-1)[:, None] if self._by_norm else z
        score = score.masked_fill(~dead[:, None], -inf)
        top = score.topk(min(self._wanted, score.shape[-1]), dim=-1, sorted=False)
        selected = torch.zeros_like(z).scatter_(-1, top.indices, (top.values > -inf).to(z.dtype))
        return selected, z.mul_(selected)
