"""An MLP with a norm after it, in terms of its weights."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.layers.layer_weights import MlpWeights, RankOneSum, Read


class NormedMlp(NamedTuple):
    """z = scale * y / s + shift, with y the MLP's output and s = sqrt(mean(y^2) + eps) (RMSNorm); for LayerNorm
    (`centred`), y less its mean stands in the place of y."""

    mlp: MlpWeights
    scale: Float[Tensor, " d_out"]
    shift: Float[Tensor, " d_out"]
    eps: float
    centred: bool

    __repr__ = short_repr

    @property
    def W_in(self) -> Float[Tensor, "d_in d_mlp"]:
        """The MLP's first weights, whose dtype is the layer's."""
        return self.mlp.W_in

    @property
    def W_out(self) -> Float[Tensor, "d_mlp d_out"]:
        """The MLP's last weights."""
        return self.mlp.W_out

    def output(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Compute f(x).

        Args:
            x: the rows, in the weights' dtype.

        Returns:
            The output, after the norm.
        """
        return self.write(self.read(x))

    def read(self, x: Float[Tensor, "*batch d_in"]) -> Read:
        """Compute what the MLP's input matrices make of rows.

        Args:
            x: the rows, in the weights' dtype.

        Returns:
            As `MlpWeights.read`.
        """
        return self.mlp.read(x)

    def read_direction(self, v: Float[Tensor, "*batch d_in"]) -> Read:
        """Compute what the MLP's input matrices make of directions.

        Args:
            v: one direction for each row.

        Returns:
            As `MlpWeights.read_direction`.
        """
        return self.mlp.read_direction(v)

    def write(self, read: Read) -> Float[Tensor, "*batch d_out"]:
        """Compute f(x) from what the input matrices made of x.

        Args:
            read: what `read` returned.

        Returns:
            The output, after the norm.
        """
        y, s = self._centred(self.mlp.write(read))
        return self.scale * y / s + self.shift

    def push(
        self, read: Read, directions: Iterable[Read], y: Float[Tensor, "*batch d_out"] | None = None
    ) -> tuple[Float[Tensor, "*batch d_out"], list[Float[Tensor, "*batch d_out"]]]:
        """Compute f(x), and J_f v for each direction v: scale * (dy / s - y <y, dy> / (d s^3)), with dy the MLP's
        product, centred where y is.

        Args:
            read: what `read` made of x.
            directions: what `read_direction` made of each v.
            y: f(x), where it is known; the norm needs the MLP's output all the same.

        Returns:
            f(x) and the products.
        """
        del y
        y, products = self.mlp.push(read, directions)  # [..., d_out] each
        y, s = self._centred(y)
        pulled = [_centre(dy) if self.centred else dy for dy in products]
        along = y / (y.shape[-1] * s**2)  # [..., d_out]
        products = [self.scale * (dy - along * (y * dy).sum(-1, keepdim=True)) / s for dy in pulled]
        return self.scale * y / s + self.shift, products

    @torch.no_grad()
    def jacobian(self, x: Float[Tensor, "rows d_in"]) -> RankOneSum:
        """Compute J_f at each row: the norm's Jacobian, diag(scale) (1 / s - y y^T / (d s^3)), times the MLP's J.

        The first part scales the MLP's own terms. The second adds one term for each row,
        -(scale * y) / (d s^3) (x) J^T y.

        Args:
            x: where it is differentiated.

        Returns:
            The Jacobians, never made as matrices.
        """
        terms, (y, s) = self.mlp.jacobian(x), self._centred(self.mlp.output(x))
        writes = _centre(terms.W_out) if self.centred else terms.W_out  # centring is linear
        left = -self.scale * y / (y.shape[-1] * s**3)  # [rows, d_out]
        return RankOneSum(terms.h / s, terms.W_in, writes * self.scale, left, terms.vjp(y))  # right: J^T y

    def _centred(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Compute y, centred where the norm does it, and s, [..., d_out] and [..., 1]."""
        y = _centre(y) if self.centred else y
        return y, (y.square().mean(-1, keepdim=True) + self.eps).sqrt()


LayerWeights = MlpWeights | NormedMlp
"""A layer whose Jacobian has a closed form."""


def _centre(y: Tensor) -> Tensor:
    return y - y.mean(-1, keepdim=True)
