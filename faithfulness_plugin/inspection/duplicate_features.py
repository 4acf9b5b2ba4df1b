"""Which features of a transcoder have a near-duplicate."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from faithfulness_plugin.inspection.near_duplicates import near_duplicates

RADIUS = 0.3
"""As a part of the typical distance of two features: random ones are orthogonal, and two within this radius have
a cosine above 1 - RADIUS^2 = .91."""


def duplicate_features(
    W_enc: Float[Tensor, "d_in d_sae"], W_dec: Float[Tensor, "d_sae d_out"], radius: float = RADIUS
) -> Bool[np.ndarray, " d_sae"]:
    """Find features that read and write nearly what another one reads and writes.

    Groups of near-duplicates are those of `near_duplicates`; a feature is the pair of its encoder and its decoder, each
    scaled to unit norm.

    Args:
        W_enc: what features read.
        W_dec: what they write; pass live features alone.
        radius: as a part of the typical distance of two features.

    Returns:
        True for a feature that is not alone in its group.

        >>> W = torch.eye(6)[[0, 1, 2, 3, 4, 5, 5]]
        >>> duplicate_features(3 * W.T, W).nonzero()[0]
        array([5, 6])
    """
    if not len(W_dec):
        return np.zeros(0, dtype=bool)
    both = torch.cat([torch.nn.functional.normalize(of.double(), dim=1) for of in (W_enc.T, W_dec)], dim=1)
    groups = near_duplicates(both, radius)
    return (groups.bincount()[groups] > 1).numpy()
