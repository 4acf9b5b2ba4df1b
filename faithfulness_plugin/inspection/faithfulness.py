"""How far the layer itself moves as each feature says it does.

On the rows n where feature i fires it says two things: that the layer writes a_i W_dec^i there, and that its output
moves by W_dec^i <W_enc^i, dx> as its input moves by dx. With r and w the unit vectors that it reads and writes,
u(n) = f(x_n) - E f, and J_f the layer's Jacobian,

    carries      = sum_n <a_i W_dec^i, u(n)> / sum_n ||u(n)||^2         its share of the layer's output there
    g(n)         = <w, J_f(x_n) r>                                      the layer's own gain from r to w
    moves        = sum_n |g| h(n) / sum_n ||J_f(x_n)||_F^2              its share of the layer's Jacobian there,
                   with h = g, but at most the gain that it claims, ||W_enc^i|| ||W_dec^i||, to either side
    faithfulness = moves / carries, cut to [0, 1]

Both shares are of the same rows. Where the gain that the feature claims is no more than the layer's, the product is
<W_dec^i (x) W_enc^i, J_f>: its share of the Jacobian as `jacobian_share` counts it, but of the layer's. A feature that
claims more is given what the layer has. Over all features of a perfect transcoder either share sums to 1 at each row,
so that a feature of the layer's own mechanism has as much of the Jacobian as of the output. A feature that serves one
input alone writes (nearly) all of the output there and moves in the one direction that it reads, where the layer still
moves in all of them: at p = (1, 1, 1, 0, ...) it has the output, and a third of the Jacobian of |x|.

How well g agrees with what the feature claims is not enough on its own: at p the layer does move along p as a
datapoint feature says. What gives the feature away is how little of the layer's Jacobian that is, for so much of its
output.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.inspection.drawn_firings import DrawnFirings, draw_firings
from faithfulness_plugin.inspection.sample import RowSample
from faithfulness_plugin.jacobian.active import ActiveFeatures, dot_active
from faithfulness_plugin.layers.comparison import random_signs
from faithfulness_plugin.layers.derivatives import Layer, layer_jvp
from faithfulness_plugin.layers.mlp_weights import checked_mlp_weights
from faithfulness_plugin.layers.normed_mlp import LayerWeights

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE

CHECKED_ROWS = 32
OPAQUE = 8
"""Rows of each feature where the layer's weights are not known: each takes a pass of the layer."""
SMALL = 64
"""Up to this width ||J_f||_F^2 is exact; above, it is ||J_f v||^2 for one v of random signs at each row, whose mean it
is."""
PAIRS = 4096
PRODUCTS = 2**26
"""Numbers that may be kept of what features read and write inside the layer."""
RESAMPLES = 200
LEAST_ROWS = 5
"""Fewer rows have no interval."""


@dataclass(frozen=True)
class FeatureFaithfulness:
    """How far the layer moves as each feature says, over some of the rows where it fires."""

    faithfulness: Float[np.ndarray, " d_sae"]
    """moves / carries, cut to [0, 1]; NaN for a feature that never fires, or that carries nothing of the output."""
    low: Float[np.ndarray, " d_sae"]
    """95 % percentile bootstrap over these rows, 200 resamples; NaN for fewer than five."""
    high: Float[np.ndarray, " d_sae"]
    moves: Float[np.ndarray, " d_sae"]
    """Its share of the layer's Jacobian there; not cut."""
    carries: Float[np.ndarray, " d_sae"]
    """Its share of the layer's output there; not cut."""
    n_rows: Int[np.ndarray, " d_sae"]
    """How many rows these are."""

    __repr__ = short_repr


@torch.no_grad()
def feature_faithfulness(
    transcoder: "SAE[Any]", layer: Layer, sample: RowSample, drawn: DrawnFirings | None = None
) -> FeatureFaithfulness:
    """Measure of every feature how far the layer moves as it says.

    A layer whose weights are known (`checked_mlp_weights`) takes one pass over the rows, and a product of the width of
    its hidden layer for each feature and row; any other layer a forward-mode product for each, at fewer rows.

    Args:
        transcoder: in `eval` mode.
        layer: the function that it replaces.
        sample: rows of the layer.
        drawn: rows at which each feature fires; None draws them, in one more pass over the sample.

    Returns:
        The two shares, their ratio, and its interval.

    Raises:
        ValueError: as `layer_jvp`.
    """
    drawn = draw_firings(transcoder, sample) if drawn is None else drawn
    device = transcoder.W_dec.device
    weights = checked_mlp_weights(layer, sample.x[sample.spread(CHECKED_ROWS)].to(device))
    drawn = drawn if weights is not None else drawn.fewer(OPAQUE)
    shape, d_sae = drawn.rows.shape, len(transcoder.W_dec)
    # of each feature and row: what it moves, ||J_f||^2, <a W_dec, u>, ||u||^2
    parts = np.zeros((4, *shape))
    hidden = 1 if weights is None else weights.jacobian(sample.x[:1].to(device)).h.shape[1]
    step = d_sae if weights is None else max(1, PRODUCTS // hidden)
    generator = torch.Generator(device).manual_seed(0)
    for first in range(0, d_sae, step):
        some = slice(first, first + step)
        W_enc, W_dec = (W.detach().float() if W.dtype.itemsize < 4 else W.detach() for W in _sides(transcoder, some))
        asked = _Opaque(layer, W_enc, W_dec) if weights is None else _Known(weights, W_enc, W_dec, sample.x[:1])
        for feature, place, rows, active in _batches(drawn.rows[some], device):
            x, u = sample.x[rows].to(device), (sample.y[rows].double() - sample.mean.double()).to(W_dec)
            along, size = asked.products(x, active, generator)  # <W_dec (x) W_enc, J_f> and ||J_f||^2
            claimed = (W_enc.norm(dim=0) * W_dec.norm(dim=1))[active.features]
            gain = along / claimed.clamp_min(1e-30)
            moved = gain.abs() * gain.minimum(claimed).maximum(-claimed)
            acts = torch.from_numpy(drawn.activations[first + feature, place]).to(W_dec)
            carried, energy = acts * dot_active(u.contiguous(), active, W_dec), u.square().sum(-1)
            for n, values in enumerate((moved, size[active.rows], carried, energy[active.rows])):
                parts[n, first + feature, place] = values.double().cpu().numpy()
    return _ratios(parts, (drawn.rows >= 0).sum(1))


def _sides(transcoder: "SAE[Any]", some: slice) -> tuple[Tensor, Tensor]:
    return transcoder.W_enc[:, some], transcoder.W_dec[some]


def _batches(
    drawn: Int[np.ndarray, "some most"], device: torch.device
) -> Iterator[tuple[np.ndarray, np.ndarray, Tensor, ActiveFeatures]]:
    """Yield features, places among their rows, the different rows in ascending order, and which features are asked for
    at each."""
    feature, place = np.nonzero(drawn >= 0)
    order = np.argsort(drawn[feature, place], kind="stable")
    feature, place = feature[order], place[order]
    for start in range(0, len(feature), PAIRS):
        f, k = feature[start : start + PAIRS], place[start : start + PAIRS]
        rows, counts = np.unique(drawn[f, k], return_counts=True)
        offsets = torch.from_numpy(np.concatenate([[0], counts.cumsum()])).to(device)
        yield f, k, torch.from_numpy(rows), ActiveFeatures(torch.from_numpy(f).to(device), offsets, len(drawn))


class _Known:
    """A layer in terms of its weights: J_f = sum_m h_m W_out[m] (x) W_in[:, m], so that <W_dec (x) W_enc, J_f> =
    <h, q> with q = (W_in^T W_enc) * (W_out W_dec), of which each feature has one."""

    def __init__(self, weights: LayerWeights, W_enc: Tensor, W_dec: Tensor, x: Tensor) -> None:
        self.weights, self.reads, self.writes = weights, W_enc.T.contiguous(), W_dec.contiguous()
        J = weights.jacobian(x.to(W_dec.device))
        self.q = (self.reads @ J.W_in.to(W_enc)) * (self.writes @ J.W_out.T.to(W_dec))  # [some, m]

    def products(self, x: Tensor, active: ActiveFeatures, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        J = self.weights.jacobian(x)
        along = dot_active(J.h.to(self.q).contiguous(), active, self.q)
        if J.left is not None and J.right is not None:  # one term more: <left, W_dec> <right, W_enc>
            left, right = (each.to(self.q).contiguous() for each in (J.left, J.right))
            along = along + dot_active(left, active, self.writes) * dot_active(right, active, self.reads)
        if x.shape[1] <= SMALL:
            return along, J.matrix().double().square().sum((1, 2))
        return along, J.jvp(random_signs(x, x.shape, generator)).double().square().sum(-1)


class _Opaque:
    """Any layer, by forward-mode products."""

    def __init__(self, layer: Layer, W_enc: Tensor, W_dec: Tensor) -> None:
        self.layer, self.reads, self.writes = layer, W_enc.T, W_dec

    def products(self, x: Tensor, active: ActiveFeatures, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        i = active.features
        Jr = layer_jvp(self.layer, x[active.rows], self.reads[i].to(x))[1]  # one product for each feature and row
        v = random_signs(x, x.shape, generator)
        if x.shape[1] <= SMALL:  # every coordinate in turn, [d_in, rows, d_in]
            v = torch.eye(x.shape[1]).to(x)[:, None].expand(-1, *x.shape)
        Jv = layer_jvp(self.layer, x, v)[1].double().square().sum(-1)
        return (Jr.to(self.writes) * self.writes[i]).sum(-1), Jv.sum(0) if v.ndim == 3 else Jv


def _ratios(parts: Float[np.ndarray, "4 d_sae most"], n: Int[np.ndarray, " d_sae"]) -> FeatureFaithfulness:
    """Compute both shares, their ratio, and its interval from what each row gives."""
    moves, carries, ratio = _shares(parts.sum(2))
    low, high = np.full(len(n), np.nan), np.full(len(n), np.nan)
    draw = np.random.default_rng(0)
    for count in np.unique(n[n >= LEAST_ROWS]):
        # how often each of the rows is drawn, [count, resamples]: the same for all features of as many rows
        times = draw.multinomial(count, np.full(count, 1 / count), RESAMPLES).T.astype(float)
        for some in np.array_split(np.flatnonzero((n == count) & ~np.isnan(ratio)), len(n) // 1024 + 1):
            if len(some):
                of = np.sort(_shares(parts[:, some, :count] @ times)[2], axis=1)  # NaN last
                low[some], high[some] = _quantiles(of)
    return FeatureFaithfulness(ratio, low, high, moves, carries, n)


def _shares(
    sums: Float[np.ndarray, "4 *features"],
) -> tuple[Float[np.ndarray, "*features"], Float[np.ndarray, "*features"], Float[np.ndarray, "*features"]]:
    along, size, carried, energy = sums
    moves, carries = (np.divide(a, b, out=np.zeros_like(a), where=b > 0) for a, b in ((along, size), (carried, energy)))
    ratio = np.divide(moves, carries, out=np.full_like(moves, np.nan), where=carries > 0)
    return moves, carries, ratio.clip(0, 1)


def _quantiles(ascending: Float[np.ndarray, "some resamples"]) -> tuple[np.ndarray, np.ndarray]:
    """Return the 2.5 % and 97.5 % quantiles of the resamples that have a ratio."""
    known = (~np.isnan(ascending)).sum(1)
    last = np.maximum(known - 1, 0)
    places = (np.floor(0.025 * last), np.ceil(0.975 * last))
    low, high = (np.take_along_axis(ascending, at.astype(int)[:, None], 1)[:, 0] for at in places)
    return low, high
