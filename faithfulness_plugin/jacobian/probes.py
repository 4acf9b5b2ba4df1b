"""Probes: the directions v along which two Jacobians are compared.

Isotropic kinds have E[v v^T] = I, so that E_v ||A v||^2 = ||A||_F^2 (Hutchinson's estimator). With A and
M = A^T A its variance is 2 (||M||_F^2 - sum_i M_ii^2) for rademacher, at most the 2 ||M||_F^2 of gaussian.
Data kinds point where the inputs vary: E_v ||A v||^2 = tr(A C A^T) with C their second moment.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.layers.comparison import random_signs

Probe = Callable[[Tensor, int, torch.Generator | None], Tensor]
"""(x [..., d_in], n_probes, generator) -> v [n_probes, ..., d_in]"""


def rademacher(
    x: Float[Tensor, "*batch d_in"], n_probes: int = 1, generator: torch.Generator | None = None
) -> Float[Tensor, "n_probes *batch d_in"]:
    """Draw independent signs, +1 or -1. The least variance of the isotropic kinds."""
    return random_signs(x, (n_probes, *x.shape), generator)


def gaussian(
    x: Float[Tensor, "*batch d_in"], n_probes: int = 1, generator: torch.Generator | None = None
) -> Float[Tensor, "n_probes *batch d_in"]:
    """Draw independent standard normal coordinates."""
    return torch.randn((n_probes, *x.shape), generator=generator, device=x.device, dtype=x.dtype)


def sphere(
    x: Float[Tensor, "*batch d_in"], n_probes: int = 1, generator: torch.Generator | None = None
) -> Float[Tensor, "n_probes *batch d_in"]:
    """Draw uniformly on the sphere of radius sqrt(d_in), the radius at which E[v v^T] = I."""
    v = gaussian(x, n_probes, generator)
    return v * (x.shape[-1] ** 0.5 / torch.linalg.vector_norm(v, dim=-1, keepdim=True))


def pair(
    x: Float[Tensor, "*batch d_in"], n_probes: int = 1, generator: torch.Generator | None = None
) -> Float[Tensor, "n_probes *batch d_in"]:
    """Draw v = (x' - x'') / sqrt 2, two rows of the batch drawn independently: E[v v^T] = the batch's covariance."""
    return (_random_rows(x, n_probes, generator) - _random_rows(x, n_probes, generator)) / 2**0.5


def difference(
    x: Float[Tensor, "*batch d_in"], n_probes: int = 1, generator: torch.Generator | None = None
) -> Float[Tensor, "n_probes *batch d_in"]:
    """Draw v = x' - x, from each row to another of the batch: E[v v^T | x] = Cov + (mean - x)(mean - x)^T."""
    return _random_rows(x, n_probes, generator) - x


def _random_rows(x: Tensor, n_probes: int, generator: torch.Generator | None) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    if not len(rows):
        return x.new_zeros(n_probes, *x.shape)
    index = torch.randint(len(rows), (n_probes, *x.shape[:-1]), generator=generator, device=x.device)
    return rows[index]


ISOTROPIC: dict[str, Probe] = {"rademacher": rademacher, "gaussian": gaussian, "sphere": sphere}
DATA: dict[str, Probe] = {"pair": pair, "difference": difference}
PROBES: dict[str, Probe] = ISOTROPIC | DATA
