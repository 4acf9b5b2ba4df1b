"""A layer in terms of its weights: an MLP with one hidden layer, gated or not, and a norm after it where it has one.

Its Jacobian is a sum of rank-one terms that are never made as a matrix.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.layers.derivatives import forward_jvp


class RankOneSum(NamedTuple):
    """J = sum_m h_m W_out[m] (x) W_in[:, m], one J a row, never made as a matrix: J v = W_out^T (h * (W_in^T v)).

    A row may have one more term, left (x) right, that shares nothing with other rows."""

    h: Float[Tensor, "rows m"]
    W_in: Float[Tensor, "d_in m"]
    W_out: Float[Tensor, "m d_out"]
    left: Float[Tensor, "rows d_out"] | None = None
    right: Float[Tensor, "rows d_in"] | None = None

    __repr__ = short_repr

    def jvp(self, v: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows d_out"]:
        """Compute J v = W_out^T (h * (W_in^T v)), a row each.

        Args:
            v: a direction of the input for each row.

        Returns:
            The products.
        """
        Jv = (self.h * (v @ self.W_in)) @ self.W_out  # [rows, m] in between
        if self.left is None or self.right is None:
            return Jv
        return Jv + self.left * (self.right * v).sum(-1, keepdim=True)  # left <right, v>

    def vjp(self, u: Float[Tensor, "rows d_out"]) -> Float[Tensor, "rows d_in"]:
        """Compute J^T u = W_in (h * (W_out u)), a row each.

        Args:
            u: a direction of the output for each row.

        Returns:
            The products.
        """
        JTu = (self.h * (u @ self.W_out.T)) @ self.W_in.T  # [rows, m] in between
        if self.left is None or self.right is None:
            return JTu
        return JTu + self.right * (self.left * u).sum(-1, keepdim=True)  # right <left, u>

    def matrix(self) -> Float[Tensor, "rows d_out d_in"]:
        """Build the matrices J themselves.

        Returns:
            One Jacobian per row.
        """
        J = (self.W_out.T * self.h[:, None]) @ self.W_in.T  # [rows, d_out, m] @ [m, d_in]
        if self.left is None or self.right is None:
            return J
        return J + self.left[:, :, None] * self.right[:, None]  # [rows, d_out, 1] * [rows, 1, d_in]


class MlpWeights(NamedTuple):
    """y = act(x W_in + b_in) W_out + b_out, or gated (SwiGLU, GEGLU): y = (act(x W_gate + b_gate) * (x W_in + b_in))
    W_out + b_out. Absent biases are None."""

    W_in: Float[Tensor, "d_in d_mlp"]
    W_out: Float[Tensor, "d_mlp d_out"]
    act: Callable[[Tensor], Tensor]
    """Elementwise."""
    b_in: Float[Tensor, " d_mlp"] | None = None
    b_out: Float[Tensor, " d_out"] | None = None
    W_gate: Float[Tensor, "d_in d_mlp"] | None = None
    b_gate: Float[Tensor, " d_mlp"] | None = None

    __repr__ = short_repr

    def output(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Compute f(x).

        Args:
            x: the rows, in the weights' dtype.

        Returns:
            The output.
        """
        linear = _affine(x, self.W_in, self.b_in)
        hidden = self.act(linear) if self.W_gate is None else self.act(_affine(x, self.W_gate, self.b_gate)) * linear
        return _affine(hidden, self.W_out, self.b_out)

    @torch.no_grad()
    def jacobian(self, x: Float[Tensor, "rows d_in"]) -> RankOneSum:
        """Compute J_f at each row, as a sum of d_mlp rank-one terms, or of 2 d_mlp where gated:
        sum_m act'(z_m) W_out[m] (x) W_in[:, m], or with g the gate's input and z the other's
        sum_m act'(g_m) z_m W_out[m] (x) W_gate[:, m] + act(g_m) W_out[m] (x) W_in[:, m].

        Args:
            x: where it is differentiated.

        Returns:
            The Jacobians, never made as matrices.
        """
        linear = _affine(x, self.W_in, self.b_in)
        gate = linear if self.W_gate is None else _affine(x, self.W_gate, self.b_gate)
        act, slope = forward_jvp(self.act, gate, torch.ones_like(gate))  # act and act' elementwise, [rows, d_mlp]
        if self.W_gate is None:
            return RankOneSum(slope, self.W_in, self.W_out)
        weights = torch.cat([slope * linear, act], dim=-1)  # [rows, 2 d_mlp]: the gate's terms, then the other's
        return RankOneSum(weights, torch.cat([self.W_gate, self.W_in], dim=1), torch.cat([self.W_out, self.W_out]))


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
        y, s = self._centred_output(x)
        return self.scale * y / s + self.shift

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
        terms, (y, s) = self.mlp.jacobian(x), self._centred_output(x)
        writes = _centre(terms.W_out) if self.centred else terms.W_out  # centring is linear
        left = -self.scale * y / (y.shape[-1] * s**3)  # [rows, d_out]
        return RankOneSum(terms.h / s, terms.W_in, writes * self.scale, left, terms.vjp(y))  # right: J^T y

    def _centred_output(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute y and s, [..., d_out] and [..., 1]."""
        y = self.mlp.output(x)
        y = _centre(y) if self.centred else y
        return y, (y.square().mean(-1, keepdim=True) + self.eps).sqrt()


LayerWeights = MlpWeights | NormedMlp
"""A layer whose Jacobian has a closed form."""


def _affine(x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
    return x @ W if b is None else x @ W + b


def _centre(y: Tensor) -> Tensor:
    return y - y.mean(-1, keepdim=True)
