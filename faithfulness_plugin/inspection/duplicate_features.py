"""Find the features of a transcoder that have a near-duplicate."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.sparse import csr_array

from faithfulness_plugin.inspection.near_duplicates import typical_distance

RADIUS = 0.3
"""The radius is a part of the typical distance of two features. Random features are orthogonal, and two features within
this radius have a cosine above 1 - RADIUS^2 = .91."""
SKETCH = 128
AT_A_TIME = 1024


def duplicate_features(
    W_enc: Float[np.ndarray, "d_in d_sae"], W_dec: Float[np.ndarray, "d_sae d_out"], radius: float = RADIUS
) -> Bool[np.ndarray, " d_sae"]:
    """Find features that read and write nearly what another one reads and writes.

    A feature is the pair of its encoder and its decoder, each scaled to unit norm. Like rows of a sample
    (`near_duplicates`), two are near-duplicates within `radius` times the typical distance of two of them.

    Args:
        W_enc: what features read; pass live features alone.
        W_dec: what they write.
        radius: as a part of the typical distance.

    Returns:
        True for a feature with another one within the radius.

        >>> W = np.eye(6)[[0, 1, 2, 3, 4, 5, 5]]
        >>> duplicate_features(3 * W.T, W).nonzero()[0]
        array([5, 6])
    """
    if len(W_dec) < 2:
        return np.zeros(len(W_dec), dtype=bool)
    # rows of unit norm, [d_sae, d_in + d_out], and ||one - other||^2 = 2 (1 - cosine)
    both = np.concatenate([_unit(W_enc.T), _unit(W_dec)], axis=1) / 2**0.5
    apart = np.sqrt(np.maximum(0.0, 2 - 2 * largest_cosines(both)))
    return apart <= radius * typical_distance(both)


def largest_cosines(rows: Float[np.ndarray, "rows d"]) -> Float[np.ndarray, " rows"]:
    """Compute the largest cosine of each row with another one.

    Args:
        rows: two or more.

    Returns:
        A cosine a row.

        >>> largest_cosines(np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 3.0]]))
        array([0., 1., 1.])
    """
    unit = _unit(rows)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    return cosines.max(1)


def near_duplicate_pairs(
    W_enc: Float[np.ndarray, "d_in d_sae"], W_dec: Float[np.ndarray, "d_sae d_out"], radius: float = RADIUS
) -> csr_array:
    """Find the near-duplicates of each feature, as `duplicate_features` defines them.

    Wide features are compared by projections to 128 numbers first, and those that may be near exactly.

    Args:
        W_enc: what features read.
        W_dec: what they write.
        radius: as a part of the typical distance.

    Returns:
        A sparse matrix [d_sae, d_sae] with 1 for each pair, both ways, and none of a feature with itself.

        >>> W = np.eye(6)[[0, 1, 2, 3, 4, 5, 5]]
        >>> near_duplicate_pairs(3 * W.T, W).nonzero()[0]
        array([5, 6])
    """
    n = len(W_dec)
    both = np.concatenate([_unit(W_enc.T), _unit(W_dec)], axis=1, dtype=np.float32) / np.float32(2**0.5)
    both[np.linalg.norm(both, axis=1) < 0.9] = 0  # a feature that reads or writes nothing has none
    wide = both.shape[1] > SKETCH
    draw = np.random.default_rng(0).standard_normal((both.shape[1], SKETCH), dtype=np.float32)
    sketch = _unit(both @ draw) if wide else both
    # ||one - other||^2 = 2 (1 - cosine) of rows of unit norm
    least = 1 - (radius * typical_distance(both)) ** 2 / 2
    rows, columns = [], []
    for start in range(0, n, AT_A_TIME):
        i, j = np.nonzero(sketch[start : start + AT_A_TIME] @ sketch.T >= least - 0.2 * wide)
        i += start
        near = (i != j) & ((both[i] * both[j]).sum(1) >= least)
        rows.append(i[near])
        columns.append(j[near])
    at = np.concatenate(rows), np.concatenate(columns)
    return csr_array((np.ones(len(at[0])), at), shape=(n, n))


def _unit(rows: Float[np.ndarray, "rows d"]) -> Float[np.ndarray, "rows d"]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
