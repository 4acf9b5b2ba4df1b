"""Jacobians as sums of rank-one terms."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class RankOneSum(NamedTuple):
    """J = sum_m h_m W_out[m] (x) W_in[:, m], one J a row, never made as a matrix: J v = W_out^T (h * (W_in^T v)).

    A row may have one more term, left (x) right, that shares nothing with other rows."""

    h: Float[Tensor, "rows m"]
    W_in: Float[Tensor, "d_in m"]
    W_out: Float[Tensor, "m d_out"]
    left: Float[Tensor, "rows d_out"] | None = None
    right: Float[Tensor, "rows d_in"] | None = None

    def jvp(self, v: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows d_out"]:
        """J v, a row each."""
        Jv = (self.h * (v @ self.W_in)) @ self.W_out
        if self.left is None or self.right is None:
            return Jv
        return Jv + self.left * (self.right * v).sum(-1, keepdim=True)

    def vjp(self, u: Float[Tensor, "rows d_out"]) -> Float[Tensor, "rows d_in"]:
        """J^T u, a row each."""
        JTu = (self.h * (u @ self.W_out.T)) @ self.W_in.T
        if self.left is None or self.right is None:
            return JTu
        return JTu + self.right * (self.left * u).sum(-1, keepdim=True)

    def matrix(self) -> Float[Tensor, "rows d_out d_in"]:
        """J itself, where it has to be."""
        J = (self.W_out.T * self.h[:, None]) @ self.W_in.T
        if self.left is None or self.right is None:
            return J
        return J + self.left[:, :, None] * self.right[:, None]
