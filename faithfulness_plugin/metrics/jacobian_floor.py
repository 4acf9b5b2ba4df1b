"""The least Jacobian error that a transcoder can have, given its number of active features."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.jacobian.exact import covariance_root, layer_jacobian
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.layers.mlp_weights import checked_mlp_weights
from faithfulness_plugin.metrics.result import DIRECTIONS, MetricResult, Transcoder

AT_A_TIME = 16  # rows whose Jacobians are made as matrices


@dataclass(frozen=True)
class JacobianFloor(MetricResult):
    """Lower bounds for the relative errors of `JacobianError`, in the same three kinds of directions."""

    relative_error: float
    relative_error_data: float
    relative_error_difference: float


@dataclass(frozen=True)
class JacobianEnergies:
    """How the energy of J_f - W_skip at each row is spread over its singular directions, by kind of direction."""

    squares: dict[str, Float[Tensor, "rows d_out"]]
    """Squared singular values of (J_f - W_skip) R, the largest first."""
    layer: dict[str, Float[Tensor, " rows"]]
    """||J_f R||_F^2."""

    __repr__ = short_repr

    def floor(self, active: Int[Tensor, " rows"]) -> JacobianFloor:
        """Compute the floor of a transcoder from its number of active features at each row.

        Args:
            active: r, the number of active features at each row.

        Returns:
            sum_rows sum_{i > r} s_i^2 / sum_rows ||J_f R||_F^2 for each kind of directions R.

        Raises:
            ValueError: the layer does not move along some kind of directions.
        """
        for kind in DIRECTIONS:
            if not self.layer[kind].any():
                raise ValueError("the layer does not move along these directions on any row: pass others")
        return JacobianFloor(*((self.beyond(k, active).sum() / self.layer[k].sum()).item() for k in DIRECTIONS))

    def beyond(self, kind: str, active: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Sum each row's energy beyond its first singular directions.

        Args:
            kind: one of `DIRECTIONS`.
            active: r, how many of the first directions each row leaves out.

        Returns:
            sum_{i > r} s_i^2 of each row.
        """
        squares = self.squares[kind]
        # squares [rows, d_out], largest first; the mask [rows, d_out] drops the first r of each row
        return (squares * (torch.arange(squares.shape[1], device=squares.device) >= active[:, None])).sum(-1)


@torch.no_grad()
def jacobian_floor(
    transcoder: Transcoder,
    layer: Layer,
    x: Float[Tensor, "rows d_in"],
    *,
    among: Float[Tensor, "others d_in"] | None = None,
) -> JacobianFloor:
    """Compute the least relative Jacobian error that a transcoder's number of active features allows.

    floor = sum_rows sum_{i > r} s_i^2 / sum_rows ||J_f R||_F^2 for the three kinds of directions R: r the row's active
    features, s the singular values of (J_f - W_skip) R. J_t - W_skip is a sum of r rank-one terms, so by Eckart and
    Young no dictionary gets below; as all rows share one, none need get there. Whole Jacobians are built, a few rows at
    a time: use some hundred rows.

    Args:
        transcoder: gives r, and W_skip where it has one.
        layer: the function that it replaces.
        x: two rows or more.
        among: rows whose covariance and mean give the data's directions, as in `jacobian_error`. From fewer rows than
            d_in the floor is that of the subspace in which they vary, and too low for another.

    Returns:
        Lower bounds of `JacobianError`'s three relative errors.

    Raises:
        ValueError: fewer than two rows, or a layer that does not move there.

    The Jacobian of |x| has d equal singular values, so that 1 of 4 features leaves 3/4 of its energy out of reach:

        >>> import torch
        >>> from faithfulness_plugin.toy.abs_network import AbsNetwork
        >>> from faithfulness_plugin.toy.exact_transcoder import exact_transcoder
        >>> layer, x = AbsNetwork(4), torch.rand(8, 4, generator=torch.Generator().manual_seed(0)) + 0.1
        >>> one = exact_transcoder(layer)
        >>> one.W_enc.data[:, 1:] = 0  # feature 0 alone still fires
        >>> round(jacobian_floor(one, layer, x).relative_error, 6)
        0.75
    """
    energies = jacobian_energies(layer, x, getattr(transcoder, "W_skip", None), among=among)
    return energies.floor((transcoder.encode(x) > 0).sum(-1))


@torch.no_grad()
def jacobian_energies(
    layer: Layer,
    x: Float[Tensor, "rows d_in"],
    W_skip: Float[Tensor, "d_out d_in"] | None = None,
    *,
    among: Float[Tensor, "others d_in"] | None = None,
) -> JacobianEnergies:
    """Compute the layer's part of `jacobian_floor`: one result serves all transcoders without skip connection.

    Args:
        layer: the layer that transcoders replace.
        x: rows at which whole Jacobians are built.
        W_skip: subtracted from J_f; None for transcoders without skip connection.
        among: rows whose covariance and mean give the data's directions; None takes x itself.

    Returns:
        Squared singular values of (J_f - W_skip) R at each row, and ||J_f R||_F^2.

    Raises:
        ValueError: fewer than two rows.
    """
    among = x if among is None else among
    if len(among) < 2:
        raise ValueError(
            f"rows of shape {list(among.shape)}: pass two rows or more, whose covariance gives the directions"
        )
    wide = torch.promote_types(x.dtype, torch.float32)  # no eigenvalues in half precision
    weights, root, mean = checked_mlp_weights(layer, x), covariance_root(among).to(wide), among.mean(0)
    squares: dict[str, list[Tensor]] = {kind: [] for kind in DIRECTIONS}
    norms: dict[str, list[Tensor]] = {kind: [] for kind in DIRECTIONS}
    for rows in x.split(AT_A_TIME):
        # J_f [16, d_out, d_in] or fewer rows, to_mean [16, d_in, 1]
        J_f = (layer_jacobian(layer, rows) if weights is None else weights.jacobian(rows).matrix()).to(wide)
        to_mean = (mean - rows)[..., None].to(wide)
        of_layer = _products(J_f, root, to_mean)
        of_rest = of_layer if W_skip is None else _products(J_f - W_skip.to(J_f), root, to_mean)
        for kind, gram in _grams(of_rest).items():
            # eigenvalues of A A^T: a third of the time of singular values of A
            squares[kind].append(torch.linalg.eigvalsh(gram).clamp_min(0).flip(-1))
        for kind, norm in _squared_norms(of_layer).items():
            norms[kind].append(norm)
    return JacobianEnergies(
        {kind: torch.cat(parts) for kind, parts in squares.items()},
        {kind: torch.cat(parts) for kind, parts in norms.items()},
    )


class _Products(NamedTuple):
    """J R, where R of differences is a root of C + (mean - x)(mean - x)^T: its two parts stand apart."""

    isotropic: Float[Tensor, "rows d_out d_in"]
    data: Float[Tensor, "rows d_out d_in"]
    to_mean: Float[Tensor, "rows d_out 1"]


def _products(
    J: Float[Tensor, "rows d_out d_in"], root: Float[Tensor, "d_in d_in"], to_mean: Float[Tensor, "rows d_in 1"]
) -> _Products:
    return _Products(J, J @ root, J @ to_mean)


def _grams(of: _Products) -> dict[str, Float[Tensor, "rows d_out d_out"]]:
    """Return J R (J R)^T for each kind of directions."""
    data = _gram(of.data)
    return dict(zip(DIRECTIONS, (_gram(of.isotropic), data, data + _gram(of.to_mean)), strict=True))


def _squared_norms(of: _Products) -> dict[str, Float[Tensor, " rows"]]:
    """Return ||J R||_F^2 for each kind of directions."""
    # [rows, d_out, d_in] -> [rows]
    isotropic, data, to_mean = (product.square().sum((-2, -1)) for product in of)
    return dict(zip(DIRECTIONS, (isotropic, data, data + to_mean), strict=True))


def _gram(matrices: Tensor) -> Tensor:
    return matrices @ matrices.mT
