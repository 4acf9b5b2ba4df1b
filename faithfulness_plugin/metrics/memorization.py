"""m: how much of the output at one point comes from features that serve that point alone."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.metrics.result import MetricResult, Transcoder, check_same_shape


@dataclass(frozen=True)
class Memorization(MetricResult):
    """What one transcoder memorizes at one point."""

    m: float
    """sum_i m_i, in units of the layer's output."""
    fraction: float
    """m / maximum: the share of the output at the point that is explained by memorization."""
    maximum: float
    """m of one feature that writes the whole output: ||y_p|| - max_j y_pj; sqrt(k) - 1 for k ones."""


@torch.no_grad()
def memorization(
    transcoder: Transcoder,
    point: Float[Tensor, " d_in"],
    *,
    layer: Layer,
    basis: Float[Tensor, "n_circuits d_out"] | None = None,
    unit: bool = True,
) -> Memorization:
    """Measure how much of the output at one point comes from features that serve that point alone.

    m = sum_i ReLU(c_i . y_p / ||y_p|| - max_{j in S} c_i . e_j), with c_i = a_i(p) W_dec^i, y_p = f(p) and S the
    support of y_p. A feature that writes one coordinate of y_p counts 0; one that writes all of them at once counts
    most. It sees outputs at p only: read it beside the off-diagonal energy of the Jacobian at p and the residual of the
    circuit projection.

    Args:
        transcoder: with `encode` and `W_dec`.
        point: p.
        layer: gives y_p, so that any point and any layer will do.
        basis: unit rows e_j, the directions that the layer's own circuits write to; None takes the coordinates. An e_j
            with y_pj < 0 counts as -e_j.
        unit: compare with y_p / ||y_p||, as the note does. False: with y_p itself, as a public reproduction does; the
            maximum is then ||y_p||^2 - max_j y_pj, and a feature of one coordinate of 1 still counts 0.

    Returns:
        m in units of the layer's output, its maximum, and their ratio.

    Raises:
        ValueError: the point is no single row; transcoder and layer differ in d_out; y_p has fewer than two non-zero
            coordinates (a one-hot point), where m is undefined; or the maximum is not positive (y_p along one e_j, or
            shorter than 1 with unit=False), so that m is a part of nothing.

    Source: C. Olah, "A Toy Model of Mechanistic (Un)Faithfulness", Transformer Circuits, 2025, its memorization metric.

    The layer's own neurons write one coordinate each, and so memorize nothing; one feature that writes all of y_p
    reaches the maximum, sqrt(3) - 1:

        >>> import torch
        >>> from faithfulness_plugin.toy.abs_network import AbsNetwork
        >>> from faithfulness_plugin.toy.exact_transcoder import exact_transcoder
        >>> layer, point = AbsNetwork(4), torch.tensor([1.0, 1.0, 1.0, 0.0])
        >>> shortcut = exact_transcoder(layer)
        >>> memorization(shortcut, point, layer=layer).m
        0.0
        >>> shortcut.W_enc.data.zero_()[:, 0] = point / 3  # reads p, and
        >>> shortcut.W_dec.data[0] = point  # writes p
        >>> found = memorization(shortcut, point, layer=layer)
        >>> round(found.m, 3), round(found.fraction, 3)
        (0.732, 1.0)
    """
    m_i, maximum = memorization_by_feature(transcoder, point, layer=layer, basis=basis, unit=unit)
    m = m_i.sum().item()
    return Memorization(m, m / maximum, maximum)


@torch.no_grad()
def memorization_by_feature(
    transcoder: Transcoder,
    point: Float[Tensor, " d_in"],
    *,
    layer: Layer,
    basis: Float[Tensor, "n_circuits d_out"] | None = None,
    unit: bool = True,
) -> tuple[Float[Tensor, " d_sae"], float]:
    """Compute m_i of every feature, the terms that `memorization` sums.

    Args:
        transcoder: as for `memorization`.
        point: as for `memorization`.
        layer: as for `memorization`.
        basis: as for `memorization`.
        unit: as for `memorization`.

    Returns:
        m_i [d_sae], and the maximum of their sum.

    Raises:
        ValueError: as `memorization`.
    """
    if point.ndim != 1:
        raise ValueError(f"the point has shape {list(point.shape)}: pass one row, [d_in]")
    y = layer(point[None])[0]
    e = torch.eye(len(y), dtype=y.dtype, device=y.device) if basis is None else basis.to(y)
    # e [n_circuits, d_out], y [d_out]: what each circuit's direction has of y_p
    coordinates = e @ y
    support = coordinates.abs() > 1e-6 * y.norm()
    if support.sum() < 2:
        raise ValueError(
            f"memorization is undefined at this point: the layer's output there has {int(support.sum())} non-zero "
            "coordinate(s), and a feature for one coordinate is no shortcut. Choose a point with n_ones of 2 or more"
        )
    # [n_support, d_out], each direction turned so that y_p has a positive part of it
    circuits = (e * coordinates.sign()[:, None])[support]
    acts = transcoder.encode(point[None])
    check_same_shape(transcoder.decode(acts)[0], y)
    # c_i = a_i W_dec^i, [d_sae, d_out]
    contributions = (acts[0][:, None] * transcoder.W_dec).to(y.dtype)
    along = y / y.norm() if unit else y
    # [d_sae, d_out] @ [d_out] less the largest of [d_sae, n_support] in each row
    excess = contributions @ along - (contributions @ circuits.T).amax(-1)
    maximum = (y @ along - coordinates.abs().max()).item()
    if maximum <= 1e-6 * y.norm().item():
        cause = "one direction of the basis has all of the output there" if unit else "its output is too short"
        advice = "choose another point" + ", or unit=True" * (not unit)
        raise ValueError(f"memorization is undefined at this point, as {cause}: {advice}")
    return torch.relu(excess), maximum
