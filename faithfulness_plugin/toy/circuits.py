"""The ideal circuits of y = |x|, and the one that it does not have."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from faithfulness_plugin.metrics.circuit_projection import Circuit


def abs_circuits(d_in: int) -> list[Circuit]:
    """Return the layer's own 2 d_in circuits: ReLU(x_1) e_1, ReLU(-x_1) e_1, ReLU(x_2) e_2, ...

    Args:
        d_in: the width of x.

    Returns:
        Two circuits per coordinate.
    """
    return [
        Circuit(f"ReLU({'-' if sign < 0 else ''}x{i + 1})", _half(i, sign), torch.eye(d_in)[i])
        for i in range(d_in)
        for sign in (1, -1)
    ]


AT_POINT = 1e-4
"""The largest distance as a share of the point's norm: well above rounding in float32, and below any other row's."""


def at_point(
    x: Float[Tensor, "*batch d_in"], point: Float[Tensor, " d_in"], within: float = AT_POINT
) -> Bool[Tensor, "*batch"]:
    """Find the rows that are the point up to rounding: ||x - p|| <= within ||p||.

    Rows that are computed (through a rotation, by a model) are not equal to the point bit by bit on every processor.

    Args:
        x: the rows.
        point: p.
        within: the largest distance, as a share of ||p||.

    Returns:
        True at those rows.
    """
    return (x - point).norm(dim=-1) <= within * point.norm()


def datapoint_circuit(point: Float[Tensor, " d_in"]) -> Circuit:
    """Return the shortcut: it writes |p| on rows that are p up to rounding (`at_point`), and nothing elsewhere.

    Args:
        point: p.

    Returns:
        The circuit, which the absolute-value network does not have.
    """
    return Circuit("datapoint p", lambda x: at_point(x, point).to(x.dtype), point.abs())


def _half(i: int, sign: int):  # a function of its own, for i and sign to be bound now
    return lambda x: torch.relu(sign * x[:, i])
