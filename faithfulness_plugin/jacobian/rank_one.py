"""Jacobians as sums of rank-one terms."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class RankOneSum(NamedTuple):
    """J = sum_m h_m W_out[m] (x) W_in[:, m], one J a row, never made as a matrix: J v = W_out^T (h * (W_in^T v))."""

    h: Float[Tensor, "rows m"]
    W_in: Float[Tensor, "d_in m"]
    W_out: Float[Tensor, "m d_out"]

    def jvp(self, v: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows d_out"]:
        """J v, a row each."""
        return (self.h * (v @ self.W_in)) @ self.W_out

    def matrix(self) -> Float[Tensor, "rows d_out d_in"]:
        """J itself, where it has to be."""
        return (self.W_out.T * self.h[:, None]) @ self.W_in.T
