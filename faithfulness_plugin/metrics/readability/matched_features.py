"""Which features two transcoders share, by what they write."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from faithfulness_plugin.metrics.result import MetricResult

MATCHED = 0.7
"""Features whose decoders have a cosine above this count as the same one."""


@dataclass(frozen=True)
class MatchedFeatures(MetricResult):
    """Pairs of features, one to one; as many as the smaller dictionary has."""

    one: Int[np.ndarray, " pairs"]
    other: Int[np.ndarray, " pairs"]
    cosine: Float[np.ndarray, " pairs"]


def matched_features(
    W_dec: Float[np.ndarray, "features d"], other: Float[np.ndarray, "other_features d"]
) -> MatchedFeatures:
    """Match features of two transcoders of one layer, by the assignment of the largest sum of cosines between their
    decoders (Hungarian method).

    Args:
        W_dec: what the features of one write; pass live features alone.
        other: what those of the other write.

    Returns:
        The pairs, in the order of the first transcoder's features.

    Features in another order and of another norm are the same features:

        >>> found = matched_features(np.eye(3), 2 * np.eye(3)[[2, 0, 1]])
        >>> found.other, found.cosine
        (array([1, 2, 0]), array([1., 1., 1.]))
    """
    unit = [of / np.maximum(np.linalg.norm(of, axis=1, keepdims=True), 1e-300) for of in (W_dec, other)]
    cosines = unit[0] @ unit[1].T
    one, matched = linear_sum_assignment(cosines, maximize=True)
    return MatchedFeatures(one, matched, cosines[one, matched])
