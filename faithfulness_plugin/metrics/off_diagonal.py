"""Off-diagonal energy: how much of the Jacobian at a point lets one input move another's output."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.jacobian.exact import transcoder_jacobian
from faithfulness_plugin.metrics.result import MetricResult


@dataclass(frozen=True)
class OffDiagonalEnergy(MetricResult):
    """How much of one transcoder's Jacobian at one point is off the diagonal."""

    energy: float
    """||J - diag J||_F^2 / ||J||_F^2, in [0, 1]; 0 for a Jacobian of zeros."""
    norm: float
    """||J - diag J||_F."""


@torch.no_grad()
def off_diagonal_energy(transcoder: nn.Module, point: Float[Tensor, " d_in"]) -> OffDiagonalEnergy:
    """Measure ||J - diag J||_F^2 / ||J||_F^2 of a transcoder's Jacobian J at one point.

    For layers that work coordinate by coordinate (d_in = d_out), such as |x|, whose own energy is 0.

    Args:
        transcoder: any module on rows.
        point: p.

    Returns:
        The share in [0, 1] (0 for a Jacobian of zeros), and the norm ||J - diag J||_F.

    Raises:
        ValueError: the Jacobian is not square.

    A matrix of ones has d of d^2 entries on its diagonal:

        >>> import torch
        >>> ones = torch.nn.Linear(4, 4, bias=False)
        >>> ones.weight.data = torch.ones(4, 4)
        >>> off_diagonal_energy(ones, torch.zeros(4)).energy
        0.75
    """
    J = transcoder_jacobian(transcoder, point)
    if J.shape[0] != J.shape[1]:
        raise ValueError(f"the Jacobian is {list(J.shape)}: off-diagonal energy is defined for d_in = d_out only")
    off = (J - torch.diag(J.diagonal())).square().sum()
    total = J.square().sum()
    return OffDiagonalEnergy((off / total).item() if total > 0 else 0.0, off.sqrt().item())
