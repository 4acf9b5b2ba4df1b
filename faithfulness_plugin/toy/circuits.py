"""The ideal circuits of y = |x|, and the one that it does not have."""

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.metrics.circuit_projection import Circuit


def abs_circuits(d_in: int) -> list[Circuit]:
    """The layer's own 2 d_in: ReLU(x_1) e_1, ReLU(-x_1) e_1, ReLU(x_2) e_2, ..."""
    return [
        Circuit(f"ReLU({'-' if sign < 0 else ''}x{i + 1})", _half(i, sign), torch.eye(d_in)[i])
        for i in range(d_in)
        for sign in (1, -1)
    ]


def datapoint_circuit(point: Float[Tensor, " d_in"]) -> Circuit:
    """The shortcut: writes |p| on rows equal to p, and nothing elsewhere."""
    return Circuit("datapoint p", lambda x: (x == point).all(-1).to(x.dtype), point.abs())


def _half(i: int, sign: int):  # a function of its own, for i and sign to be bound now
    return lambda x: torch.relu(sign * x[:, i])
