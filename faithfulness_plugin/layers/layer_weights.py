"""A layer in terms of its weights: an MLP with one hidden layer, gated or not, and a norm after it where it has one.

Its Jacobian is a sum of rank-one terms that are never made as a matrix.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.layers.derivatives import forward_jvp
from faithfulness_plugin.layers.never_compiled import never_compiled


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


Read = tuple[Float[Tensor, "*batch d_mlp"], ...]
"""What a layer's input matrices make of rows, or of directions: one for W_in, and one for W_gate where there is one."""


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
        return self.write(self.read(x))

    def read(self, x: Float[Tensor, "*batch d_in"]) -> Read:
        """Compute what the input matrices make of rows.

        Args:
            x: the rows, in the weights' dtype.

        Returns:
            x W_in + b_in, and x W_gate + b_gate where gated.
        """
        linear = _affine(x, self.W_in, self.b_in)
        return (linear,) if self.W_gate is None else (linear, _affine(x, self.W_gate, self.b_gate))

    def read_direction(self, v: Float[Tensor, "*batch d_in"]) -> Read:
        """Compute what the input matrices make of directions.

        Args:
            v: one direction for each row.

        Returns:
            v W_in, and v W_gate where gated.
        """
        return (v @ self.W_in,) if self.W_gate is None else (v @ self.W_in, v @ self.W_gate)

    def write(self, read: Read) -> Float[Tensor, "*batch d_out"]:
        """Compute f(x) from what the input matrices made of x.

        Args:
            read: what `read` returned.

        Returns:
            The output.
        """
        linear, *gate = read
        hidden = self.act(gate[0]) * linear if gate else self.act(linear)
        return _affine(hidden, self.W_out, self.b_out)

    def push(
        self, read: Read, directions: Iterable[Read], y: Float[Tensor, "*batch d_out"] | None = None
    ) -> tuple[Float[Tensor, "*batch d_out"], list[Float[Tensor, "*batch d_out"]]]:
        """Compute f(x), and J_f v for each direction v, with one product for each: J v = W_out^T h, where
        h = act'(z) * (W_in^T v), or gated h = act'(g) * (W_gate^T v) * z + act(g) * (W_in^T v).

        Args:
            read: what `read` made of x.
            directions: what `read_direction` made of each v.
            y: f(x), where it is known.

        Returns:
            f(x) and the products.
        """
        linear, *gate = read
        products = []
        act = None
        for of_v in directions:
            act, hidden = elementwise_jvp(self.act, read[-1], of_v[-1])  # act(g), act'(g) * (W_gate^T v): [..., d_mlp]
            if gate:
                hidden = hidden.mul_(linear).addcmul_(act, of_v[0])
            products.append(hidden @ self.W_out)  # [..., d_out]
        if y is None:
            act = self.act(read[-1]) if act is None else act
            y = _affine(act * linear if gate else act, self.W_out, self.b_out)
        return y, products

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
        read = self.read(x)
        linear = read[0]
        act, slope = forward_jvp(self.act, read[-1], torch.ones_like(linear))  # act and act' elementwise, [rows, d_mlp]
        if self.W_gate is None:
            return RankOneSum(slope, self.W_in, self.W_out)
        weights = torch.cat([slope * linear, act], dim=-1)  # [rows, 2 d_mlp]: the gate's terms, then the other's
        return RankOneSum(weights, torch.cat([self.W_gate, self.W_in], dim=1), torch.cat([self.W_out, self.W_out]))


@never_compiled
def elementwise_jvp(
    function: Callable[[Tensor], Tensor], z: Float[Tensor, "*batch d"], v: Float[Tensor, "*batch d"]
) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch d"]]:
    """Compute (function(z), function'(z) * v) for an elementwise function.

    Its Jacobian is diagonal, and so its own transpose: one backward pass gives the product, at a fifth of the overhead
    of forward mode.

    Args:
        function: elementwise, such as an activation.
        z: where it is differentiated.
        v: one direction for each row.

    Returns:
        Both, without a graph.

    Example:
        >>> z, v = torch.randn(2, 3), torch.randn(2, 3)
        >>> torch.testing.assert_close(elementwise_jvp(torch.tanh, z, v)[1], (1 - z.tanh().square()) * v)
    """
    if torch.is_inference_mode_enabled():  # nothing has a backward pass there
        return forward_jvp(function, z, v)
    with torch.enable_grad():  # of this function alone: z is cut off from what made it
        z = z.detach().requires_grad_()
        y = function(z)
        product = torch.autograd.grad(y, z, v)[0] if y.requires_grad else torch.zeros_like(z)
    return y.detach(), product


def _affine(x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
    return x @ W if b is None else x @ W + b
