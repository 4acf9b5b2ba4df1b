"""Divergence near a point: what a mechanism that serves the point alone does one step away from it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.jacobian.probes import sphere
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.metrics.result import MetricResult, relative_error
from faithfulness_plugin.seeds import derived_seed

N_DIRECTIONS = 256


@dataclass(frozen=True)
class NearPoint(MetricResult):
    """Relative output errors around one point, as curves."""

    distances: tuple[float, ...]
    """eps: how far from p, in input units."""
    error: tuple[float, ...]
    """E_u ||t - f||^2 / E_u ||f||^2 at p + eps u, u uniform among unit vectors."""
    values: tuple[float, ...]
    """c: what one coordinate of p's support is set to."""
    error_one_changed: tuple[float, ...]
    """That ratio at p with one coordinate set to c, over the coordinates of the support."""


@torch.no_grad()
def near_point(
    transcoder: nn.Module,
    layer: Layer,
    point: Float[Tensor, " d_in"],
    distances: Sequence[float],
    values: Sequence[float],
    seed: int = 0,
) -> NearPoint:
    """Compute ||t - f||^2 / ||f||^2 on p + eps u, and on p with one coordinate of its support changed.

    The directions u, uniform on the unit sphere, are the same for every transcoder and every eps.

    Args:
        transcoder: any module on rows.
        layer: the function that it replaces.
        point: p, not zero.
        distances: eps, in input units.
        values: what one coordinate of p's support is set to, in turn.
        seed: decides the directions u.

    Returns:
        Both ratios as curves, over eps and over the values.

    Raises:
        ValueError: the point is no single row, or zero; the layer's output is zero at one of the distances or values.

    A transcoder that writes half of the output is off by 1/4 of its energy everywhere:

        >>> import torch
        >>> from faithfulness_plugin.toy.abs_network import AbsNetwork
        >>> from faithfulness_plugin.toy.exact_transcoder import exact_transcoder
        >>> layer = AbsNetwork(3)
        >>> half = exact_transcoder(layer)
        >>> half.W_dec.data /= 2
        >>> found = near_point(half, layer, torch.ones(3), distances=[0.1, 1.0], values=[0.0])
        >>> [round(error, 5) for error in (*found.error, *found.error_one_changed)]
        [0.25, 0.25, 0.25]
    """
    if point.ndim != 1 or not point.any():
        raise ValueError(f"the point has shape {list(point.shape)}: pass one row [d_in] that is not zero")
    generator = torch.Generator(point.device).manual_seed(derived_seed(seed, "directions"))
    # [256, d_in]: probes of length sqrt(d_in), brought to length 1
    u = sphere(point.expand(N_DIRECTIONS, -1), 1, generator)[0] / len(point) ** 0.5
    support = point.nonzero().flatten()

    def one_changed(value: float) -> Tensor:
        rows = point.repeat(len(support), 1)
        # row k of [support, d_in] is p with the k-th coordinate of its support changed
        rows[torch.arange(len(support), device=point.device), support] = value
        return rows

    return NearPoint(
        tuple(distances),
        tuple(_relative_error(transcoder, layer, point + eps * u) for eps in distances),
        tuple(values),
        tuple(_relative_error(transcoder, layer, one_changed(value)) for value in values),
    )


def _relative_error(transcoder: nn.Module, layer: Layer, x: Tensor) -> float:
    y = layer(x)
    if not y.any():
        raise ValueError("the layer's output is zero there, so that a relative error is undefined: choose other values")
    return relative_error(transcoder(x), y)
