"""Response curves: how layer and transcoder respond to a step of finite length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.metrics.result import MetricResult, check_same_shape, cosines, mean_cosine
from faithfulness_plugin.rounding import beyond_rounding


@dataclass(frozen=True)
class Response(MetricResult):
    """Curves over the step's length. D_f = f(x + eps v) - f(x), and D_t likewise."""

    distances: tuple[float, ...]
    """eps."""
    error: tuple[float, ...]
    """E||D_t - D_f||^2 / E||D_f||^2, a ratio of means; 1 says that the transcoder does not respond."""
    cosine: tuple[float, ...]
    """Mean of cos(D_t, D_f) over rows where the layer responds."""


class StepResponses(NamedTuple):
    """The responses of layer and transcoder to one step, row by row."""

    squared_error: Float[Tensor, " rows"]
    """||D_t - D_f||^2."""
    layer: Float[Tensor, " rows"]
    """||D_f||^2."""
    cosine: Float[Tensor, " rows"]
    """cos(D_t, D_f), 0 where either is 0."""

    __repr__ = short_repr


@torch.no_grad()
def response(
    transcoder: nn.Module,
    layer: Layer,
    x: Float[Tensor, "rows d_in"],
    v: Float[Tensor, "rows d_in"],
    distances: Sequence[float],
) -> Response:
    """Compare how layer and transcoder respond to steps x -> x + eps v of finite length.

    error = E||D_t - D_f||^2 / E||D_f||^2, with D_f = f(x + eps v) - f(x) and D_t likewise; cosine = E cos(D_t, D_f)
    over rows where the layer responds.

    Args:
        transcoder: any module on rows.
        layer: the function that it replaces.
        x: rows of the layer's input.
        v: one direction a row: another row minus this one (then eps 0.5 is half-way to it), or an isotropic probe times
            the rows' rms coordinate (then eps is in its units).
        distances: eps, the lengths of the steps.

    Returns:
        Error and cosine at each eps.

    Raises:
        ValueError: transcoder and layer differ in d_out; a step to which the layer does not respond on any row.

    A response of the right direction and half the size has cosine 1 and error 1/4:

        >>> import torch
        >>> from faithfulness_plugin.toy.abs_network import AbsNetwork
        >>> from faithfulness_plugin.toy.exact_transcoder import exact_transcoder
        >>> layer, x = AbsNetwork(3), torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
        >>> half = exact_transcoder(layer)
        >>> half.W_dec.data /= 2
        >>> found = response(half, layer, x, x.roll(1, 0) - x, distances=[0.5])
        >>> round(found.error[0], 5), round(found.cosine[0], 5)
        (0.25, 1.0)
    """
    by_distance = finite_differences(transcoder, layer, x, v, distances)
    for eps, given in zip(distances, by_distance, strict=True):
        if not given.layer.any():
            raise ValueError(f"the layer does not respond to a step of {eps}, so a relative error is undefined there")
    return Response(
        tuple(distances),
        tuple((given.squared_error.sum() / given.layer.sum()).item() for given in by_distance),
        tuple(mean_cosine(given.cosine, given.layer) for given in by_distance),
    )


@torch.no_grad()
def finite_differences(
    transcoder: nn.Module,
    layer: Layer,
    x: Float[Tensor, "rows d_in"],
    v: Float[Tensor, "rows d_in"],
    distances: Sequence[float],
) -> list[StepResponses]:
    """Compute the responses to each step x -> x + eps v, row by row; what rounding explains is no response.

    Args:
        transcoder: any module on rows.
        layer: the function that it replaces.
        x: rows of the layer's input.
        v: one direction a row.
        distances: eps, the lengths of the steps.

    Returns:
        ||D_t - D_f||^2, ||D_f||^2 and cos(D_t, D_f) of each row, for each eps.

    Raises:
        ValueError: transcoder and layer differ in d_out.
    """
    D_f, D_t = changes(layer, x, v, distances), changes(transcoder, x, v, distances)
    return compare_changes(D_f, D_t)


@torch.no_grad()
def changes(
    function: Layer,
    x: Float[Tensor, "rows d_in"],
    v: Float[Tensor, "rows d_in"],
    distances: Sequence[float],
    y: Float[Tensor, "rows d_out"] | None = None,
) -> list[Float[Tensor, "rows d_out"]]:
    """Compute f(x + eps v) - f(x) row by row; what rounding explains is no change.

    Args:
        function: f, a layer or a transcoder.
        x: rows of its input.
        v: one direction a row.
        distances: eps, the lengths of the steps.
        y: f(x), where it is known.

    Returns:
        The changes, for each eps.
    """
    y = function(x) if y is None else y
    return [beyond_rounding(y, function(x + eps * v)) for eps in distances]


@torch.no_grad()
def compare_changes(
    of_layer: Sequence[Float[Tensor, "rows d_out"]], of_transcoder: Sequence[Float[Tensor, "rows d_t"]]
) -> list[StepResponses]:
    """Compare what the same steps change in a layer's and in a transcoder's outputs, row by row.

    Args:
        of_layer: D_f, for each step.
        of_transcoder: D_t, likewise.

    Returns:
        ||D_t - D_f||^2, ||D_f||^2 and cos(D_t, D_f) of each row, for each step.

    Raises:
        ValueError: transcoder and layer differ in d_out.
    """
    found = []
    for D_f, D_t in zip(of_layer, of_transcoder, strict=True):
        check_same_shape(D_t, D_f)
        found.append(StepResponses((D_t - D_f).square().sum(-1), D_f.square().sum(-1), cosines(D_t, D_f)))
    return found
