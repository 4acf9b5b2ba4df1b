"""An MLP with a norm after it, as the blocks of Gemma 2 and 3 and OLMo 2 have it, in terms of weights."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.layers.mlp_weights import MlpWeights
from faithfulness_plugin.layers.rank_one import RankOneSum

EPS_NAMES = ("eps", "variance_epsilon")


class NormedMlp(NamedTuple):
    """z = scale * y / s + shift, with y the MLP's output and s = sqrt(mean(y^2) + eps) (RMSNorm); for LayerNorm
    (`centred`), y less its mean stands in the place of y."""

    mlp: MlpWeights
    scale: Float[Tensor, " d_out"]
    shift: Float[Tensor, " d_out"]
    eps: float
    centred: bool

    @property
    def W_in(self) -> Float[Tensor, "d_in d_mlp"]:
        """The MLP's."""
        return self.mlp.W_in

    @property
    def W_out(self) -> Float[Tensor, "d_mlp d_out"]:
        """The MLP's."""
        return self.mlp.W_out

    def output(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """f(x)."""
        y, s = self._centred_output(x)
        return self.scale * y / s + self.shift

    @torch.no_grad()
    def jacobian(self, x: Float[Tensor, "rows d_in"]) -> RankOneSum:
        """J_f at each row: the norm's Jacobian, diag(scale) (1 / s - y y^T / (d s^3)), times the MLP's J.

        The first part scales the MLP's own terms. The second adds one term for each row,
        -(scale * y) / (d s^3) (x) J^T y."""
        terms, (y, s) = self.mlp.jacobian(x), self._centred_output(x)
        writes = _centre(terms.W_out) if self.centred else terms.W_out
        left = -self.scale * y / (y.shape[-1] * s**3)
        return RankOneSum(terms.h / s, terms.W_in, writes * self.scale, left, terms.vjp(y))

    def _centred_output(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y and s: [..., d_out] and [..., 1]."""
        y = self.mlp.output(x)
        y = _centre(y) if self.centred else y
        return y, (y.square().mean(-1, keepdim=True) + self.eps).sqrt()


@torch.no_grad()
def normed_mlp(mlp: MlpWeights, norm: Callable[[Tensor], Tensor]) -> NormedMlp | None:
    """An MLP and the norm after it, where that is an RMSNorm or a LayerNorm with an `eps`; else None, as for other
    norms, or a guess that `checked_mlp_weights` sees through.

    Scale and shift are read off what the norm makes of known rows, since classes differ in how they keep them: w,
    1 + w, or none.
    """
    eps, d = next((getattr(norm, name) for name in EPS_NAMES if hasattr(norm, name)), None), mlp.W_out.shape[1]
    if not isinstance(eps, float) or d < 2:
        return None
    call = getattr(norm, "forward", norm)
    # rows [1, d] of mean 0 without a 0, so that both kinds of norm treat them alike
    row = mlp.W_out.new_ones(1, d)
    row[0, 1::2] = -1
    if d % 2:
        row[0, -3:] = row.new_tensor([1, 1, -2])
    shift = call(torch.zeros_like(row))[0]
    scale = (call(row)[0] - shift) * (row.square().mean() + eps).sqrt() / row[0]
    level = call(torch.ones_like(row))[0] - shift  # 0 after a LayerNorm
    return NormedMlp(mlp, scale, shift, eps, centred=bool(level.norm() < 1e-3 * scale.norm()))


def _centre(y: Tensor) -> Tensor:
    return y - y.mean(-1, keepdim=True)
