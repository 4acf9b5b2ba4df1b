"""Products with the embeddings of a token and of those before it, without a matrix that has a row for each."""

from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from faithfulness_plugin.metrics.readability.ridge import Ridge
from faithfulness_plugin.metrics.readability.token_means import token_sums


class Neighbours:
    """Rows X = [E(token), E(token before), E(token before that)], centred, by products alone.

    X has a row a token and three times the model's width; as there are far fewer tokens in the vocabulary than in a
    text, X^T R is taken as E^T of sums of R by token, and X^T X as E^T (counts of pairs of tokens) E.

    Args:
        places: [rows, 3]: the numbers of the token itself and of the two before it.
        embeddings: E, [tokens, d]; a row of zeros for a place before the prompt's beginning.
        center: [3 d], which is taken off every row; None for the rows' own mean.
    """

    def __init__(
        self,
        places: Int[np.ndarray, "rows 3"],
        embeddings: Float[np.ndarray, "tokens d"],
        center: Float[np.ndarray, " width"] | None = None,
    ) -> None:
        self.places, self.embeddings = places, embeddings
        self.center = self.mean if center is None else center

    @cached_property
    def mean(self) -> Float[np.ndarray, " width"]:
        """The mean of X before centring."""
        counts = [np.bincount(of, minlength=len(self.embeddings)) for of in self.places.T]
        return np.concatenate([count @ self.embeddings for count in counts]) / len(self.places)

    @cached_property
    def gram(self) -> Float[np.ndarray, "width width"]:
        """X^T X."""
        n_rows, n_tokens = len(self.places), len(self.embeddings)
        blocks = []
        for one in self.places.T:
            # how often each pair of tokens stands at these two places, [tokens, tokens], sparse
            pairs = [csr_array((np.ones(n_rows), (one, other)), shape=(n_tokens, n_tokens)) for other in self.places.T]
            blocks.append([self.embeddings.T @ (pair @ self.embeddings) for pair in pairs])
        c, m = self.center, self.mean
        # (X - c)^T (X - c), [width, width]
        return np.block(blocks) - n_rows * (np.outer(c, m) + np.outer(m, c) - np.outer(c, c))

    @cached_property
    def ridge(self) -> Ridge:
        """Regressions on these rows."""
        return Ridge(self.gram, len(self.places))

    def cross(self, values: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "width features"]:
        """Compute X^T R.

        Args:
            values: R.

        Returns:
            The product.

            >>> of = Neighbours(np.array([[0, 1, 1], [1, 0, 1]]), np.array([[1.0], [3.0]]), np.zeros(3))
            >>> of.cross(np.array([[1.0], [10.0]])).ravel()
            array([31., 13., 33.])
        """
        n_tokens = len(self.embeddings)
        each = [self.embeddings.T @ token_sums(values, of, n_tokens) for of in self.places.T]
        return np.concatenate(each) - np.outer(self.center, values.sum(0))
