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
from faithfulness_plugin.layers.row_differences import RowDifferences

Probe = Callable[[Tensor, int, torch.Generator | None], Tensor]
"""(x [..., d_in], n_probes, generator) -> v [n_probes, ..., d_in]"""


def rademacher(
    x: Float[Tensor, "*batch d_in"], n_probes: int = 1, generator: torch.Generator | None = None
) -> Float[Tensor, "n_probes *batch d_in"]:
    """Draw independent signs, +1 or -1. The least variance of the isotropic kinds.

    Args:
        x: the rows that get them, for their shape, dtype and device.
        n_probes: how many each row gets.
        generator: the source of randomness, on the device of x; None for torch's own.

    Returns:
        Probes of length sqrt(d_in).

    Example:
        >>> v = rademacher(torch.zeros(1, 3), 4000, torch.Generator().manual_seed(0)).squeeze(1)
        >>> torch.testing.assert_close(v.T @ v / 4000, torch.eye(3), atol=0.05, rtol=0)
    """
    return random_signs(x, (n_probes, *x.shape), generator)  # [n_probes, ..., d_in]


def gaussian(
    x: Float[Tensor, "*batch d_in"], n_probes: int = 1, generator: torch.Generator | None = None
) -> Float[Tensor, "n_probes *batch d_in"]:
    """Draw independent standard normal coordinates.

    Args:
        x: the rows that get them, for their shape, dtype and device.
        n_probes: how many each row gets.
        generator: the source of randomness, on the device of x; None for torch's own.

    Returns:
        Probes of length sqrt(d_in) in the root mean square.

    Example:
        >>> v = gaussian(torch.zeros(1, 3), 4000, torch.Generator().manual_seed(0)).squeeze(1)
        >>> torch.testing.assert_close(v.T @ v / 4000, torch.eye(3), atol=0.1, rtol=0)
    """
    return torch.randn((n_probes, *x.shape), generator=generator, device=x.device, dtype=x.dtype)  # likewise


def sphere(
    x: Float[Tensor, "*batch d_in"], n_probes: int = 1, generator: torch.Generator | None = None
) -> Float[Tensor, "n_probes *batch d_in"]:
    """Draw uniformly on the sphere of radius sqrt(d_in), the radius at which E[v v^T] = I.

    Args:
        x: the rows that get them, for their shape, dtype and device.
        n_probes: how many each row gets.
        generator: the source of randomness, on the device of x; None for torch's own.

    Returns:
        Probes of length sqrt(d_in).

    Example:
        >>> v = sphere(torch.zeros(5, 3), 2, torch.Generator().manual_seed(0))
        >>> torch.testing.assert_close(v.norm(dim=-1), torch.full((2, 5), 3**0.5))
    """
    v = gaussian(x, n_probes, generator)
    # a gaussian direction is uniform: only its length is changed
    return v * (x.shape[-1] ** 0.5 / torch.linalg.vector_norm(v, dim=-1, keepdim=True))


def pair(
    x: Float[Tensor, "*batch d_in"], n_probes: int = 1, generator: torch.Generator | None = None
) -> Float[Tensor, "n_probes *batch d_in"]:
    """Draw v = (x' - x'') / sqrt 2, two rows of the batch drawn independently: E[v v^T] = the batch's covariance.

    Args:
        x: the rows that get them, and from which x' and x'' are drawn.
        n_probes: how many each row gets.
        generator: the source of randomness, on the device of x; None for torch's own.

    Returns:
        Probes, independent of the row that gets them.

    Raises:
        ValueError: a row that is no batch.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # their variance is 1 and 0
        >>> v = pair(x, 4000, torch.Generator().manual_seed(0)).flatten(0, 1)
        >>> torch.testing.assert_close(v.T @ v / len(v), torch.tensor([[1.0, 0.0], [0.0, 0.0]]), atol=0.05, rtol=0)
    """
    return pair_rows(x, n_probes, generator).of(x)  # [n_probes, ..., d_in]


def pair_rows(x: Float[Tensor, "*batch d_in"], n_probes: int, generator: torch.Generator | None) -> RowDifferences:
    """Draw the rows of `pair`.

    Args:
        x: as in `pair`.
        n_probes: as in `pair`.
        generator: as in `pair`.

    Returns:
        Which rows the probes are differences of.

    Raises:
        ValueError: a row that is no batch.
    """
    ends = _random_rows(x, n_probes, generator)  # x' is drawn first
    # the difference of two independent rows has twice their covariance
    return RowDifferences(ends, _random_rows(x, n_probes, generator), 2**0.5)


def difference(
    x: Float[Tensor, "*batch d_in"], n_probes: int = 1, generator: torch.Generator | None = None
) -> Float[Tensor, "n_probes *batch d_in"]:
    """Draw v = x' - x, from each row to another of the batch: E[v v^T | x] = Cov + (mean - x)(mean - x)^T.

    Args:
        x: the rows that get them, and from which x' is drawn.
        n_probes: how many each row gets.
        generator: the source of randomness, on the device of x; None for torch's own.

    Returns:
        Probes, about half of whose energy points to the mean.

    Raises:
        ValueError: a row that is no batch.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> v = difference(x, 8, torch.Generator().manual_seed(0))
        >>> bool(((x + v).sort(dim=-1).values == torch.tensor([0.0, 1.0])).all())  # each ends at one of the rows
        True
    """
    return difference_rows(x, n_probes, generator).of(x)  # [n_probes, ..., d_in]


def difference_rows(
    x: Float[Tensor, "*batch d_in"], n_probes: int, generator: torch.Generator | None
) -> RowDifferences:
    """Draw the rows of `difference`.

    Args:
        x: as in `difference`.
        n_probes: as in `difference`.
        generator: as in `difference`.

    Returns:
        Which rows the probes end at.

    Raises:
        ValueError: a row that is no batch.
    """
    return RowDifferences(_random_rows(x, n_probes, generator), None)


def _random_rows(x: Tensor, n_probes: int, generator: torch.Generator | None) -> Tensor:
    n_rows = x.shape[:-1].numel()  # rows are counted as if they were flattened
    if not n_rows:  # no rows get no probes
        return torch.zeros(n_probes, *x.shape[:-1], dtype=torch.int64, device=x.device)
    if x.ndim == 1:
        raise ValueError(
            f"pair and difference probes go between rows, and x has shape {list(x.shape)}: pass a batch of rows, or "
            'probe="rademacher"'
        )
    # one row of the batch for each probe of each row
    return torch.randint(n_rows, (n_probes, *x.shape[:-1]), generator=generator, device=x.device)


ISOTROPIC: dict[str, Probe] = {"rademacher": rademacher, "gaussian": gaussian, "sphere": sphere}
DATA: dict[str, Probe] = {"pair": pair, "difference": difference}
PROBES: dict[str, Probe] = ISOTROPIC | DATA
DATA_ROWS = {"pair": pair_rows, "difference": difference_rows}
