"""Exact norms and inner products of whole Jacobians, by Gram matrices of weights instead of by passes.

With J_t = sum_s g_s W_dec[s] (x) W_enc[:, s] (+ W_skip), g the gates, and J_f = sum_m h_m W_out[m] (x) W_in[:, m],

    <J_t, J_f> = g^T C h,    C = (W_enc^T W_in) * (W_dec W_out^T)    [d_sae, m]
    ||J_f||^2  = h^T G_f h,  G_f = (W_in^T W_in) * (W_out W_out^T)   [m, m]
    ||J_t||^2  = g^T G_t g,  of which only the active features' part is made, [k, k] a row

(* elementwise). A row costs k^2 (d_in + d_out) + k m + m^2 instead of d_in passes. Where J_f has one more term of the
row's own, a (x) b, as with a norm after an MLP, <J_t, a (x) b> = a^T J_t b adds one product with each Jacobian.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from faithfulness_plugin.jacobian.active import ActiveFeatures, sum_active
from faithfulness_plugin.jacobian.exact import JacobianProducts
from faithfulness_plugin.jacobian.linear_region import LinearRegion, Weights
from faithfulness_plugin.layers.normed_mlp import LayerWeights

CHUNK = 2**23  # numbers in the largest temporary


class JacobianGram:
    """The Gram matrices of one transcoder and one layer: made once, used for any number of rows.

    Args:
        transcoder: the transcoder's weights, d_in and d_out as the layer's.
        layer: the layer's weights.
        root: R [d_in, r]: compares J_t R with J_f R instead, as in the data's directions with R R^T their covariance.

    Memory: d_sae m + m^2 numbers, m the layer's rank-one terms (d_mlp, or 2 d_mlp where gated). Computed in the layer's
    dtype, half precision in single. Squared errors are differences: in single precision, relative errors below about
    1e-6 are rounding.

    Example:
        >>> from faithfulness_plugin.jacobian.dense_region import DenseRegion
        >>> from faithfulness_plugin.layers.layer_weights import MlpWeights
        >>> _ = torch.manual_seed(0)
        >>> x, W_in, W_out, W_enc, W_dec = (torch.randn(*shape) for shape in ((5, 3), (3, 6), (6, 2), (3, 8), (8, 2)))
        >>> layer, weights = MlpWeights(W_in, W_out, torch.relu), Weights(W_enc, W_dec, torch.zeros(2))
        >>> region = DenseRegion(x, weights, (x @ W_enc).relu())
        >>> products = JacobianGram(weights, layer).products(region, x)
        >>> J_t = torch.einsum("ns,is,so->noi", (x @ W_enc > 0).float(), W_enc, W_dec)
        >>> J_f = torch.einsum("nm,im,mo->noi", (x @ W_in > 0).float(), W_in, W_out)
        >>> torch.testing.assert_close(products.squared_error, (J_t - J_f).square().sum((1, 2)))
    """

    @torch.no_grad()
    def __init__(self, transcoder: Weights, layer: LayerWeights, root: Float[Tensor, "d_in r"] | None = None) -> None:
        dtype = torch.promote_types(layer.W_in.dtype, torch.float32)
        W_enc, W_dec = transcoder.W_enc.to(dtype), transcoder.W_dec.to(dtype)
        W_skip = None if transcoder.W_skip is None else transcoder.W_skip.to(dtype)
        terms = layer.jacobian(layer.W_in.new_zeros(0, len(layer.W_in)))  # for its matrices; h has no rows
        W_in, self._W_out = terms.W_in.to(dtype), terms.W_out.to(dtype)
        root = None if root is None else root.to(dtype)
        if root is not None:
            W_in, W_enc = (
                root.T @ W_in,
                root.T @ W_enc,
            )  # (W_out (x) W_in) R = W_out (x) R^T W_in
            W_skip = None if W_skip is None else W_skip @ root  # [d_out, r]
        self._mlp, self._root = layer, root
        self._features, self._W_dec = W_enc.T.contiguous(), W_dec  # [d_sae, r] and [d_sae, d_out]
        self._layer = (W_in.T @ W_in) * (self._W_out @ self._W_out.T)  # G_f [m, m]
        self._cross = (self._features @ W_in) * (W_dec @ self._W_out.T)  # C [d_sae, m]
        self._skip_norm = W_skip.square().sum() if W_skip is not None else W_enc.new_zeros(())
        # <W_skip, W_out[m] (x) W_in[:, m]>, and the same with features  # [m] and [d_sae]
        self._skip_layer = ((self._W_out @ W_skip) * W_in.T).sum(-1) if W_skip is not None else None
        self._skip_features = ((W_dec @ W_skip) * self._features).sum(-1) if W_skip is not None else None

    @torch.no_grad()
    def products(self, region: LinearRegion, x: Float[Tensor, "rows d_in"]) -> JacobianProducts:
        """Compute the squared norms and the inner product of both Jacobians at rows x.

        Args:
            region: the transcoder's linear region at x, which says which features are active.
            x: the rows.

        Returns:
            The products at each row. Squared errors are at least 0.
        """
        active, terms = region.active(), self._mlp.jacobian(x.to(self._mlp.W_in.dtype))
        h = terms.h.to(self._layer.dtype)
        ones = h.new_ones(len(active.features))
        inner = (sum_active(ones, active, self._cross) * h).sum(-1)  # g^T C h: [rows, m] summed over m
        transcoder = self._transcoder_norms(active)
        if self._skip_layer is not None and self._skip_features is not None:
            inner = inner + h @ self._skip_layer
            by_feature = sum_active(ones, active, self._skip_features[:, None]).squeeze(-1)
            transcoder = transcoder + 2 * by_feature + self._skip_norm
        layer = ((h @ self._layer) * h).sum(-1)  # h^T G_f h
        if terms.left is not None and terms.right is not None:
            left, right = terms.left.to(h), terms.right.to(h)
            # R R^T b, so that a^T J R R^T b is <J R, a (x) R^T b>
            moved = right if self._root is None else right @ self._root @ self._root.T
            own_norm = left.square().sum(-1) * (right * moved).sum(-1)
            inner = inner + (left * region.jvp(moved).to(h)).sum(-1)
            # J_f already has the term: ||S + T||^2 = ||S||^2 + 2 <S + T, T> - ||T||^2
            layer = layer + 2 * (left * terms.jvp(moved.to(terms.left)).to(h)).sum(-1) - own_norm
        return JacobianProducts(transcoder, layer, inner, (transcoder - 2 * inner + layer).clamp_min(0))

    def _transcoder_norms(self, active: ActiveFeatures) -> Float[Tensor, " rows"]:
        """Compute ||sum_s W_dec[s] (x) W_enc[:, s]||^2 over the active features of each row."""
        norms = self._features.new_zeros(active.n_rows)
        for rows, _, products in _rank_one_products(active, self._features, self._W_dec):
            norms[rows] = products.sum((-1, -2))
        return norms


def _rank_one_products(
    active: ActiveFeatures, reads: Float[Tensor, "d_sae d_in"], writes: Float[Tensor, "d_sae d_out"]
) -> Iterator[tuple[Int[Tensor, " some"], Int[Tensor, "some k"], Float[Tensor, "some k k"]]]:
    """Compute <writes_s (x) reads_s, writes_r (x) reads_r> of the active features s, r of each row.

    Yields:
        Rows of like counts together, their features, and the products, padded to k by features whose products are 0.
        Rows without active features are left out.
    """
    counts = active.offsets.diff()
    order = counts.argsort(stable=True)
    start = int((counts == 0).sum())
    width = reads.shape[1] + writes.shape[1]
    taken = CHUNK
    while start < len(order):
        # padded to the count of the last of them: as many rows as keep the temporaries small
        rows = order[start : start + taken]
        k = int(counts[rows[-1]])
        taken = max(1, CHUNK // (k * width + 2 * k * k))
        if len(rows) > taken:
            continue
        place = torch.arange(k, device=rows.device)
        real = place < counts[rows, None]
        features = active.features[torch.where(real, active.offsets[rows, None] + place, 0)]  # [some, k]
        d_in, d_out = reads[features], writes[features] * real[..., None]  # [some, k, d_in] and [some, k, d_out]
        yield rows, features, (d_in @ d_in.mT) * (d_out @ d_out.mT)
        start += len(rows)


@torch.no_grad()
def jacobian_by_feature(region: LinearRegion) -> tuple[Float[Tensor, " d_sae"], Float[Tensor, ""]]:
    """Sum <g_i W_dec^i (x) W_enc^i, J_t> over rows, for each feature i, and ||J_t||_F^2.

    With the skip connection's part <W_skip, J_t> the former add up to the latter. A feature's part is negative where
    it takes back what others do.

    Args:
        region: the transcoder's linear region at the rows that are summed over.

    Returns:
        The feature's parts [d_sae], and the sum of ||J_t||_F^2 over rows, in single precision at least.
    """
    W_enc, W_dec, _, W_skip = region.weights
    wide = torch.promote_types(W_enc.dtype, torch.float32)
    reads, writes = W_enc.T.to(wide).contiguous(), W_dec.to(wide)
    active = region.active()
    parts = reads.new_zeros(active.d_sae)
    for _, features, products in _rank_one_products(active, reads, writes):
        parts.index_add_(0, features.flatten(), products.sum(-1).flatten())
    if W_skip is None:
        return parts, parts.sum()
    skip = W_skip.to(wide)
    # <W_dec[i] (x) W_enc[:, i], W_skip> [d_sae], as often as the feature is active
    with_skip = ((writes @ skip) * reads).sum(-1) * active.features.bincount(minlength=active.d_sae)
    return parts + with_skip, parts.sum() + 2 * with_skip.sum() + active.n_rows * skip.square().sum()
