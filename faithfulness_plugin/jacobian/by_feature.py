"""The part of each feature in a transcoder's Jacobian."""

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.jacobian.gram import rank_one_products
from faithfulness_plugin.jacobian.linear_region import LinearRegion


@torch.no_grad()
def jacobian_by_feature(region: LinearRegion) -> tuple[Float[Tensor, " d_sae"], Float[Tensor, ""]]:
    """Sum <g_i W_dec^i (x) W_enc^i, J_t> over rows, for each feature i, and ||J_t||_F^2.

    With the skip connection's part <W_skip, J_t> the former add up to the latter. A feature's part is negative where
    it takes back what others do.
    """
    W_enc, W_dec, _, W_skip = region.weights
    wide = torch.promote_types(W_enc.dtype, torch.float32)
    reads, writes = W_enc.T.to(wide).contiguous(), W_dec.to(wide)
    active = region.active()
    parts = reads.new_zeros(active.d_sae)
    for _, features, products in rank_one_products(active, reads, writes):
        parts.index_add_(0, features.flatten(), products.sum(-1).flatten())
    if W_skip is None:
        return parts, parts.sum()
    skip = W_skip.to(wide)
    with_skip = ((writes @ skip) * reads).sum(-1) * active.features.bincount(minlength=active.d_sae)
    return parts + with_skip, parts.sum() + 2 * with_skip.sum() + active.n_rows * skip.square().sum()
