"""How alike the contexts are in which a feature is most active, in the model's own residual stream."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from faithfulness_plugin.metrics.result import MetricResult


@dataclass(frozen=True)
class ContextCoherence(MetricResult):
    """Mean pairwise cosines of the residual stream, centred."""

    excess: Float[np.ndarray, " d_sae"]
    """At a feature's top rows, beyond that of random rows; NaN for a feature with fewer than two."""
    random: float
    """The mean cosine of two random rows of different prompts."""


def context_coherence(
    residual: Float[np.ndarray, "rows d"], prompts: Int[np.ndarray, " rows"], top_rows: Int[np.ndarray, "d_sae top"]
) -> ContextCoherence:
    """Compare the model's own state where a feature is most active with that at random places.

    With u(n) = (r(n) - E r) / ||r(n) - E r||, r the residual stream entering the block,

        excess_i = mean over pairs of top rows of <u(n), u(m)> - mean over all pairs of rows of different prompts.

    The second mean is exact, over all pairs: of k unit vectors the sum of all <u(n), u(m)> is ||sum u||^2.

    Args:
        residual: r at every row.
        prompts: the prompt of every row, numbered from 0.
        top_rows: the rows at which each feature is most active, one a prompt; -1 where there are fewer.

    Returns:
        The excess of every feature, and the mean cosine of random rows.

    Raises:
        ValueError: rows of a single prompt, which have no pairs of different ones.

    Two features, one active in two equal contexts and one in two opposite ones, on four rows of four prompts:

        >>> r = np.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
        >>> found = context_coherence(r, np.arange(4), np.array([[0, 1], [0, 2]]))
        >>> (found.excess + found.random).round(6)
        array([ 1., -1.])
    """
    unit = unit_contexts(residual)
    random = random_cosine(unit, prompts)
    return ContextCoherence(top_cosines(unit, top_rows) - random, random)


def unit_contexts(residual: Float[np.ndarray, "rows d"]) -> Float[np.ndarray, "rows d"]:
    """Centre rows, and scale them to unit norm.

    Args:
        residual: r at every row.

    Returns:
        (r - E r) / ||r - E r||; 0 for a row that is the mean.

        >>> unit_contexts(np.array([[0.0], [0.0], [3.0]])).ravel()
        array([-1., -1.,  1.])
    """
    away = residual - residual.mean(0, dtype=np.float64).astype(residual.dtype)
    norms = np.linalg.norm(away, axis=1, keepdims=True)
    return away / np.where(norms > 0, norms, 1)


def random_cosine(unit: Float[np.ndarray, "rows d"], prompts: Int[np.ndarray, " rows"]) -> float:
    """Compute the mean cosine over all pairs of rows of different prompts.

    Args:
        unit: rows of unit norm.
        prompts: the prompt of every row, numbered from 0.

    Returns:
        The mean.

    Raises:
        ValueError: rows of a single prompt.

        >>> random_cosine(np.array([[1.0], [1.0], [-1.0]]), np.array([0, 0, 1]))
        -1.0
    """
    n_rows, counts = len(unit), np.bincount(prompts).astype(float)
    pairs = n_rows**2 - (counts**2).sum()
    if pairs == 0:
        raise ValueError("all rows are of one prompt: contexts are compared between prompts, pass two or more")
    of_prompts = csr_array((np.ones(n_rows), (prompts, np.arange(n_rows))), shape=(len(counts), n_rows)) @ unit
    # all pairs without those within one prompt
    return float(((of_prompts.sum(0) ** 2).sum() - (of_prompts**2).sum()) / pairs)


def top_cosines(
    unit: Float[np.ndarray, "rows d"], top_rows: Int[np.ndarray, "d_sae top"]
) -> Float[np.ndarray, " d_sae"]:
    """Compute the mean cosine over all pairs of a feature's top rows.

    Args:
        unit: rows of unit norm.
        top_rows: the rows of each feature; -1 where there are fewer.

    Returns:
        The means; NaN for a feature with fewer than two rows.

        >>> top_cosines(np.eye(2), np.array([[0, 0], [0, 1], [1, -1]]))
        array([ 1.,  0., nan])
    """
    found = np.full(len(top_rows), np.nan)
    for feature, rows in enumerate(top_rows):
        of = unit[rows[rows >= 0]].astype(np.float64)
        if (n := len(of)) > 1:
            # ||sum u||^2 is the sum over all pairs, those of a row with itself included
            found[feature] = ((of.sum(0) ** 2).sum() - (of**2).sum()) / (n * (n - 1))
    return found
