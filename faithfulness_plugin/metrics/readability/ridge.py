"""Ridge regression of many targets in closed form, the penalty of each chosen by generalised cross-validation."""

import numpy as np
from jaxtyping import Float

PENALTIES = tuple(10.0**e for e in range(-4, 4))
"""Penalties that are tried, as multiples of the Gram matrix's mean eigenvalue; beside them no regression at all."""


class Ridge:
    """Solves ridge regressions on the same rows X, centred, from products alone: X itself is not kept.

    Args:
        gram: X^T X [p, p].
        n_rows: rows of X.

    Source: Golub, Heath and Wahba 1979, "Generalized cross-validation as a method for choosing a good ridge parameter".
    """

    def __init__(self, gram: Float[np.ndarray, "p p"], n_rows: int) -> None:
        eigenvalues, self.vectors = np.linalg.eigh(gram)
        self.eigenvalues, self.n_rows = np.maximum(eigenvalues, 0.0), n_rows

    def coefficients(
        self, cross: Float[np.ndarray, "p targets"], energy: Float[np.ndarray, " targets"]
    ) -> Float[np.ndarray, "p targets"]:
        """Solve min_B ||R - X B||^2 + penalty ||B||^2 for targets R, each with the penalty of least

            GCV = ||R - X B||^2 / (1 - (1 + trace of the hat matrix) / n)^2.

        A target that no penalty predicts better than 0 does gets coefficients of 0.

        Args:
            cross: X^T R.
            energy: sum over rows of R^2, target by target.

        Returns:
            B.

        The target is the single column, so that the least penalty wins and B is nearly 1:

            >>> x = np.array([[-1.0], [0.0], [1.0], [0.0]])
            >>> Ridge(x.T @ x, 4).coefficients(x.T @ x, np.array([2.0])).round(3)
            array([[1.]])
        """
        s, scale = self.eigenvalues, self.eigenvalues.mean()
        if scale == 0:
            return np.zeros_like(cross)
        # V^T X^T R, [p, targets]
        along = self.vectors.T @ cross
        best, chosen = energy / (1 - 1 / self.n_rows) ** 2, np.full(cross.shape[1], np.inf)
        for penalty in (scale * p for p in PENALTIES):
            degrees = 1 + (s / (s + penalty)).sum()
            if degrees >= self.n_rows:
                continue
            # ||R - X B||^2 = ||R||^2 - sum_j along_j^2 (2 / (s_j + penalty) - s_j / (s_j + penalty)^2)
            explained = (2 / (s + penalty) - s / (s + penalty) ** 2) @ along**2
            score = np.maximum(energy - explained, 0.0) / (1 - degrees / self.n_rows) ** 2
            better = score < best
            best, chosen = np.where(better, score, best), np.where(better, penalty, chosen)
        # an infinite penalty divides to 0
        return self.vectors @ (along / (s[:, None] + chosen))
