"""Whole Jacobians, one column per probe: for small widths, and as the truth that estimates are compared with."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.jacobian.closed_form import transcoder_jvp
from faithfulness_plugin.jacobian.linear_region import linear_region
from faithfulness_plugin.layers.derivatives import Layer, layer_jvp


def layer_jacobian(layer: Layer, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out d_in"]:
    """Compute J_f(x) by d_in forward-mode products, without a graph. At a kink it takes torch's convention (|x|: 0).

    Args:
        layer: any callable, row-wise.
        x: where it is differentiated.

    Returns:
        One Jacobian per row; column i is J_f e_i.

    Example:
        >>> x = torch.tensor([[0.5, -2.0, 0.0]])
        >>> torch.testing.assert_close(layer_jacobian(torch.abs, x)[0], torch.diag(x[0].sign()))
    """
    return layer_jvp(layer, x, unit_probes(x))[1].movedim(0, -1)  # [d_in, ..., d_out] to [..., d_out, d_in]


def transcoder_jacobian(transcoder: nn.Module, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out d_in"]:
    """Compute J_t(x), column by column with `transcoder_jvp`, with a graph to the transcoder's parameters.

    Args:
        transcoder: any nn.Module; in closed form for classes that `linear_region` knows.
        x: where it is differentiated.

    Returns:
        One Jacobian per row; column i is J_t e_i.
    """
    return transcoder_jvp(transcoder, x, unit_probes(x))[1].movedim(0, -1)  # [d_in, ..., d_out] likewise


@dataclass(frozen=True)
class JacobianProducts:
    """Squared norms and inner products of both Jacobians at each row."""

    transcoder: Float[Tensor, " rows"]
    """||J_t||_F^2."""
    layer: Float[Tensor, " rows"]
    """||J_f||_F^2."""
    inner: Float[Tensor, " rows"]
    """<J_t, J_f>."""
    squared_error: Float[Tensor, " rows"]
    """||J_t - J_f||_F^2."""

    __repr__ = short_repr

    def along_with(self, other: "JacobianProducts") -> "JacobianProducts":
        """Add the products along another set of directions.

        Args:
            other: products of the same rows.

        Returns:
            The sums, quantity by quantity: those along both sets together.
        """
        return JacobianProducts(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @property
    def cosine(self) -> Float[Tensor, " rows"]:
        """cos(vec J_t, vec J_f); 0 where either is 0."""
        norms = (self.transcoder.clamp_min(0) * self.layer.clamp_min(0)).sqrt()
        return torch.where(norms > 0, self.inner / norms, torch.zeros_like(norms)).clamp(-1, 1)


@torch.no_grad()
def products_along(
    transcoder: nn.Module, layer: Layer, x: Float[Tensor, "rows d_in"], probes: Float[Tensor, "n rows d_in"]
) -> JacobianProducts:
    """Compute both Jacobians' products at rows x, by one forward-mode pass of the layer per probe.

    With R R^T = sum_i v_i v_i^T over the probes they are ||J_t R||^2, ||J_f R||^2, <J_t R, J_f R>, ||(J_t - J_f) R||^2.
    Along `unit_probes` R is the identity, and they are those of the Jacobians themselves; along `pair_probes` they are
    those in the data's directions. This works for any layer and any transcoder.

    Args:
        transcoder: any nn.Module.
        layer: any callable, row-wise.
        x: the rows.
        probes: one direction for each row and each i.

    Returns:
        Sums over the probes, in single precision at least.

    Raises:
        ValueError: transcoder and layer differ in d_out.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> module, x = nn.Linear(4, 3), torch.randn(2, 4)
        >>> products = products_along(module, nn.Linear(4, 3), x, unit_probes(x))
        >>> torch.testing.assert_close(products.transcoder, module.weight.detach().square().sum().expand(2))
    """
    region = linear_region(transcoder, x)
    wide = torch.promote_types(x.dtype, torch.float32)  # sums of so many half-precision squares stand still
    totals = [x.new_zeros(len(x), dtype=wide) for _ in range(4)]  # one number a row, summed over probes
    for v in probes:  # [rows, d_in]: one probe at a time, so that no [n, rows, d_out] is held
        J_f = layer_jvp(layer, x, v)[1].to(wide)
        J_t = (transcoder_jvp(transcoder, x, v)[1] if region is None else region.jvp(v)).to(wide)
        if J_t.shape != J_f.shape:
            raise ValueError(
                f"the transcoder's output has d_out={J_t.shape[-1]} and the layer's has {J_f.shape[-1]}: compare a "
                "transcoder with the layer it replaces"
            )
        for total, value in zip(totals, (J_t * J_t, J_f * J_f, J_t * J_f, (J_t - J_f).square()), strict=True):
            total += value.sum(-1)
    return JacobianProducts(*totals)


def unit_probes(x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "d_in *batch d_in"]:
    """Make the unit vectors e_i probes of every row: sum_i v_i v_i^T = I, so that sum_i ||A v_i||^2 = ||A||_F^2.

    Args:
        x: the rows that get them, for their shape, dtype and device.

    Returns:
        d_in probes, each expanded over the rows without a copy.
    """
    return _on_every_row(torch.eye(x.shape[-1], dtype=x.dtype, device=x.device), x)


def pair_probes(
    x: Float[Tensor, "*batch d_in"], among: Float[Tensor, "*rows d_in"] | None = None
) -> Float[Tensor, "d_in *batch d_in"]:
    """Make d_in probes with sum_i v_i v_i^T = the covariance of the batch, which random pair probes have on average.

    Args:
        x: the rows that get them.
        among: the rows whose covariance is taken; None for x itself.

    Returns:
        d_in probes, the columns of a root of the covariance, expanded over the rows.
    """
    return _on_every_row(covariance_root(x if among is None else among).T, x)  # columns of R: sum_i v_i v_i^T = R R^T


def difference_probes(x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "d_in_and_1 *batch d_in"]:
    """Make d_in + 1 probes with sum_i v_i v_i^T = Cov + (mean - x)(mean - x)^T, the mean of random difference probes.

    Args:
        x: the rows that get them, and whose mean and covariance are taken.

    Returns:
        The pair probes, and mean - x, which differs from row to row.
    """
    rows = x.reshape(-1, x.shape[-1])
    # [d_in, ..., d_in] of the covariance, and [1, ..., d_in] of the way to the mean
    return torch.cat([pair_probes(x), (rows.sum(0) / max(1, len(rows)) - x)[None]])


def covariance_root(x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "d_in d_in"]:
    """Compute R with R R^T = the rows' covariance: J R is a Jacobian in the data's directions.

    Args:
        x: the rows; dimensions in front are flattened.

    Returns:
        R, in the dtype of x; computed in single precision at least.
    """
    rows = x.reshape(-1, x.shape[-1])
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))  # eigh knows no half precision
    n_rows = max(1, len(rows))
    centred = wide - wide.sum(0) / n_rows
    # Cov = V diag(eigenvalues) V^T, [d_in, d_in]
    values, vectors = torch.linalg.eigh(centred.T @ centred / n_rows)
    # R = V diag(sqrt(eigenvalues)); rounding may leave an eigenvalue slightly below 0
    return (vectors * values.clamp_min(0).sqrt()).to(x.dtype)


def _on_every_row(probes: Tensor, x: Tensor) -> Tensor:
    """Expand [n, d_in] to [n, ..., d_in]."""
    n, d_in = probes.shape
    return probes.reshape(n, *(1,) * (x.ndim - 1), d_in).expand(n, *x.shape)
