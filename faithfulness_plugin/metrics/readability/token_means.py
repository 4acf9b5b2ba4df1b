"""What a feature's activation is at each token of the vocabulary on average, shrunk where few rows have the token."""

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array


def shrunk_token_means(
    acts: Float[np.ndarray, "rows features"], tokens: Int[np.ndarray, " rows"], n_tokens: int
) -> Float[np.ndarray, "tokens features"]:
    """Estimate the mean activation at each token, an empirical Bayes estimate in a model with two levels.

    With n_v rows of token v, m_v their mean and m the mean of all rows, the estimate is

        m + n_v / (n_v + q) (m_v - m),    q = (variance within tokens) / (variance between tokens),

    both variances by the method of moments (one-way analysis of variance), feature by feature. A feature that does not
    depend on the token has q = inf, and is estimated by m; a token without rows is, too.

    Args:
        acts: a_i at every row.
        tokens: the token of every row, numbered from 0.
        n_tokens: how many numbers there are.

    Returns:
        The estimate for each token and feature.

    Source: Searle, Casella and McCulloch 1992, "Variance Components", chapter 3 (moments of unbalanced data).

    A feature that is 1 at token 0 and 0 at token 1 has no variance within tokens, and nothing is shrunk:

        >>> shrunk_token_means(np.array([[1.0], [1.0], [0.0]]), np.array([0, 0, 1]), 2)
        array([[1.],
               [0.]])
    """
    n_rows = len(acts)
    counts = np.bincount(tokens, minlength=n_tokens).astype(float)
    seen = counts > 0
    sums = token_sums(acts, tokens, n_tokens)  # [tokens, features]
    mean = sums.sum(0) / n_rows
    means = np.where(seen[:, None], sums / np.maximum(counts, 1)[:, None], mean)
    away = means - mean
    # sums of squares [features]: over rows about their token's mean, and of those about the mean of all
    between = counts @ away**2
    within = np.maximum(((acts - mean) ** 2).sum(0) - between, 0.0)
    n_seen = int(seen.sum())
    if n_seen < 2 or n_rows == n_seen:  # nothing tells the two variances apart
        return np.broadcast_to(mean, means.shape).copy()
    variance = within / (n_rows - n_seen)
    apart = (between - (n_seen - 1) * variance) / (n_rows - (counts**2).sum() / n_rows)
    # counts / (counts + variance / apart), [tokens, features], and 0 where tokens are not apart
    signal = counts[:, None] * np.maximum(apart, 0.0)
    weight = np.divide(signal, signal + variance, out=np.zeros_like(means), where=signal > 0)
    return mean + weight * away


def token_sums(
    values: Float[np.ndarray, "rows features"], tokens: Int[np.ndarray, " rows"], n_tokens: int
) -> Float[np.ndarray, "tokens features"]:
    """Sum rows by their token.

    Args:
        values: a row of numbers at each row of the text.
        tokens: the token of every row, numbered from 0.
        n_tokens: how many numbers there are.

    Returns:
        The sums.

        >>> token_sums(np.array([[1.0], [2.0], [4.0]]), np.array([0, 1, 0]), 2).ravel()
        array([5., 2.])
    """
    n_rows = len(tokens)
    indicator = csr_array((np.ones(n_rows), (tokens, np.arange(n_rows))), shape=(n_tokens, n_rows))
    return indicator @ values
