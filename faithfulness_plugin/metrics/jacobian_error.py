"""How far a transcoder's Jacobian is from its layer's, exactly."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.jacobian.exact import (
    JacobianProducts,
    covariance_root,
    pair_probes,
    products_along,
    unit_probes,
)
from faithfulness_plugin.jacobian.gram import JacobianGram
from faithfulness_plugin.jacobian.linear_region import linear_region
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.layers.mlp_weights import checked_mlp_weights
from faithfulness_plugin.metrics.result import DIRECTIONS, Directions, MetricResult, mean_cosine


@dataclass(frozen=True)
class JacobianError(MetricResult):
    """Whole Jacobians compared, averaged over rows."""

    relative_error: float
    """E||J_f - J_t||_F^2 / E||J_f||_F^2, a ratio of means; 1 says that nothing of J_f is there."""
    cosine: float
    """E_x cos(vec J_f, vec J_t) over rows with J_f != 0. Blind to shrinkage: read it with the relative error."""
    relative_error_data: float
    """The relative error with J C^(1/2) for J, C the rows' covariance: in directions where the data vary."""
    cosine_data: float
    """The cosine with J C^(1/2)."""
    relative_error_difference: float
    """The relative error with C + (mean - x)(mean - x)^T for C: along differences to other rows, half of whose
    energy is the one direction to the mean."""
    cosine_difference: float
    """The cosine along these."""
    columns: float
    """Share of the Jacobians' columns that was compared."""
    method: str
    """How it was computed, exactly either way: "gram", by Gram matrices of the weights; "products", by d_in
    forward-mode products, because the layer is opaque (or the transcoder is, or columns were left out)."""


@torch.no_grad()
def jacobian_error(
    transcoder: nn.Module,
    layer: Layer,
    x: Float[Tensor, "batch d_in"],
    *,
    columns: Bool[Tensor, "batch d_in"] | None = None,
    among: Float[Tensor, "rows d_in"] | None = None,
) -> JacobianError:
    """Compare whole Jacobians [d_out, d_in] at rows x, exactly.

    relative_error = E||J_f - J_t||_F^2 / E||J_f||_F^2, a ratio of means; along the data, J R takes the place of J.
    Computed from Gram matrices (`JacobianGram`) where the layer is an MLP whose weights are recognised and reproduce it
    (`checked_mlp_weights`); otherwise from d_in forward-mode products a side, slower by orders of magnitude for a wide
    layer. The result's `method` says which.

    Args:
        transcoder: any module on rows; closed forms are used where its features are known.
        layer: the function that it replaces.
        x: two rows or more.
        columns: True for the input coordinates that count; None counts all. For y = |x| pass `x != 0`: at the kink the
            layer has no derivative.
        among: rows whose covariance and mean give the data's directions; None takes x itself. Fewer rows than d_in do
            not span all directions: pass many where x is a few of them.

    Returns:
        Relative errors and cosines in all directions, along the data, and along differences to other rows.

    Raises:
        ValueError: fewer than two rows (their covariance gives the data's directions); columns of another shape than x;
            transcoder and layer differ in d_out; the layer's Jacobian is zero on all rows, or in all directions in
            which they vary.

    A Jacobian of the right direction and half the size has cosine 1 and error 1/4:

        >>> import torch
        >>> from faithfulness_plugin.toy.abs_network import AbsNetwork
        >>> from faithfulness_plugin.toy.exact_transcoder import exact_transcoder
        >>> layer, x = AbsNetwork(3), torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
        >>> half = exact_transcoder(layer)
        >>> half.W_dec.data /= 2
        >>> found = jacobian_error(half, layer, x)
        >>> round(found.relative_error, 5), round(found.cosine, 5), found.method
        (0.25, 1.0, 'gram')
    """
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"x has shape {list(x.shape)}: pass two rows or more, [batch, d_in]")
    if columns is not None and columns.shape != x.shape:
        raise ValueError(f"columns has shape {list(columns.shape)} and x {list(x.shape)}: pass one flag per entry of x")
    compared = 1.0 if columns is None else columns.float().mean().item()
    return average_products(jacobian_products(transcoder, layer, x, columns, among), compared)


class ByDirections(NamedTuple):
    """Both Jacobians' products at each row, by kind of directions, and the method used."""

    along: dict[Directions, JacobianProducts]
    method: str

    __repr__ = short_repr


@torch.no_grad()
def jacobian_products(
    transcoder: nn.Module,
    layer: Layer,
    x: Float[Tensor, "batch d_in"],
    columns: Bool[Tensor, "batch d_in"] | None = None,
    among: Float[Tensor, "rows d_in"] | None = None,
) -> ByDirections:
    """Compute what `jacobian_error` averages, row by row.

    Args:
        transcoder: as for `jacobian_error`.
        layer: as for `jacobian_error`.
        x: rows of the layer's input.
        columns: True for the input coordinates that count; None counts all.
        among: rows whose covariance and mean give the data's directions; None takes x itself.

    Returns:
        ||(J_t - J_f) R||_F^2, ||J_f R||_F^2 and cosines of each row, for the three kinds of directions R.

    Raises:
        ValueError: transcoder and layer differ in d_out.
    """
    among = x if among is None else among
    region = linear_region(transcoder, x)
    mask = torch.ones_like(x) if columns is None else columns
    mlp = checked_mlp_weights(layer, x) if columns is None and region is not None else None
    if region is not None and mlp is not None and region.weights.W_dec.shape[1] == mlp.W_out.shape[1]:
        plain, data = (
            JacobianGram(region.weights, mlp, root).products(region, x) for root in (None, covariance_root(among))
        )
    else:
        mlp = None
        plain, data = (
            products_along(transcoder, layer, x, probes * mask) for probes in (unit_probes(x), pair_probes(x, among))
        )
    # one direction a row, [1, batch, d_in]: towards the mean
    to_mean = products_along(transcoder, layer, x, ((among.mean(0) - x) * mask)[None])
    along: dict[Directions, JacobianProducts]
    along = {"isotropic": plain, "data": data, "difference": data.along_with(to_mean)}
    return ByDirections(along, "products" if mlp is None else "gram")


def average_products(products: ByDirections, columns: float = 1.0) -> JacobianError:
    """Average over rows what `jacobian_products` computed.

    Args:
        products: the products of every row.
        columns: the share of the Jacobians' columns that was compared.

    Returns:
        The errors and cosines, as `jacobian_error` gives them.

    Raises:
        ValueError: the layer's Jacobian is zero on all rows, or in all directions in which they vary.
    """
    if not (products.along["isotropic"].layer > 0).any():
        raise ValueError("the layer's Jacobian is zero on all these rows, so a relative error is undefined there")
    if not (products.along["data"].layer > 0).any():
        raise ValueError("these rows do not vary where the layer does, so there are no data directions: pass others")
    return JacobianError(
        *(number for directions in DIRECTIONS for number in _summary(products.along[directions])),
        columns=columns,
        method=products.method,
    )


def _summary(products: JacobianProducts) -> tuple[float, float]:
    """Return the ratio of means, and the mean cosine over rows where the layer moves."""
    relative = products.squared_error.mean() / products.layer.mean()
    return relative.item(), mean_cosine(products.cosine, products.layer)
