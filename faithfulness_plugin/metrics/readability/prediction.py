"""How well a feature's activation is predicted from the token, and from the tokens before it as well."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from faithfulness_plugin.metrics.readability.neighbours import Neighbours
from faithfulness_plugin.metrics.readability.token_means import shrunk_token_means
from faithfulness_plugin.metrics.result import MetricResult

AT_A_TIME = 128  # features: their activations are dense meanwhile


@dataclass(frozen=True)
class Prediction(MetricResult):
    """R^2 on rows that nothing was fitted on, a number a feature; NaN for a feature of constant activation there."""

    token: Float[np.ndarray, " d_sae"]
    """From the mean activation at the row's token."""
    neighbours: Float[np.ndarray, " d_sae"]
    """What that leaves is regressed on the embeddings of the token and the two before it, and added."""


class Halves:
    """Two halves of a text, each of which is predicted from the other: what does not depend on the transcoder.

    Args:
        places: the numbers of each row's token and of the two before it.
        embeddings: the model's input embeddings of these tokens; zeros for a place before the prompt's beginning.
        second: which rows are in the second half. Halve by prompt: rows of one prompt are alike.
    """

    def __init__(
        self,
        places: Int[np.ndarray, "rows 3"],
        embeddings: Float[np.ndarray, "tokens d"],
        second: Bool[np.ndarray, " rows"],
    ) -> None:
        self.places, self.n_tokens, self.halves = places, len(embeddings), (~second, second)
        self.fitted = [Neighbours(places[half], embeddings) for half in self.halves]
        # each half's rows about the mean of the other one, from which it is predicted
        others = reversed(self.fitted)
        self.tested = [
            Neighbours(places[h], embeddings, other.mean) for h, other in zip(self.halves, others, strict=True)
        ]

    def errors(self, acts: Float[np.ndarray, "rows features"], fit: int) -> tuple[Float[np.ndarray, " features"], ...]:
        """Predict one half from the other.

        Args:
            acts: activations.
            fit: the half to fit on, 0 or 1.

        Returns:
            Sums of squares over the other half: about its own mean, of the errors from the token, and of those from
            token and neighbours.
        """
        here, there = (acts[self.halves[n]] for n in (fit, 1 - fit))
        token, other = (self.places[self.halves[n], 0] for n in (fit, 1 - fit))
        means = shrunk_token_means(here, token, self.n_tokens)
        left, unseen = here - means[token], there - means[other]  # what the token leaves, [rows of a half, features]
        total, from_token = ((there - there.mean(0)) ** 2).sum(0), (unseen**2).sum(0)
        offset = left.mean(0)
        left, unseen = left - offset, unseen - offset
        B = self.fitted[fit].ridge.coefficients(self.fitted[fit].cross(left), (left**2).sum(0))
        tested = self.tested[1 - fit]
        # ||R - X B||^2 = ||R||^2 - 2 <B, X^T R> + <B, X^T X B>, feature by feature
        of_both = (unseen**2).sum(0) - 2 * (B * tested.cross(unseen)).sum(0) + (B * (tested.gram @ B)).sum(0)
        return total, from_token, of_both


def prediction(acts: Any, halves: Halves) -> Prediction:
    """Compute how well activations are predicted from the text around them, on rows that were not fitted.

    (a) The prediction is the mean activation at the token, shrunk to the feature's mean (`shrunk_token_means`);
    (b) what it leaves is regressed on the input embeddings of the token and the two before it (`Ridge`), for all
    features in one product. Both are fitted on one half and tested on the other, and the other way round:

        R^2 = 1 - (squared errors on both halves) / (sums of squares about the mean of each half)

    Below 0 where the mean of the half would have been the better prediction.

    Args:
        acts: activations [rows, d_sae], a sparse matrix of scipy.
        halves: of the same rows.

    Returns:
        R^2 of both, feature by feature.

    A feature that fires at token 1 alone is predicted by its token:

        >>> from scipy.sparse import csc_array
        >>> token = np.array([0, 1, 1, 0] * 20)
        >>> places = np.stack([token, np.roll(token, 1), np.roll(token, 2)], axis=1)
        >>> halves = Halves(places, np.eye(2), np.arange(80) >= 40)
        >>> prediction(csc_array((token == 1).astype(float)[:, None]), halves).token
        array([1.])
    """
    parts: list[Sequence[np.ndarray]] = []
    columns = acts.tocsc()
    for start in range(0, max(1, acts.shape[1]), AT_A_TIME):
        dense = columns[:, start : start + AT_A_TIME].toarray().astype(float)
        sums = [halves.errors(dense, fit) for fit in (0, 1)]
        parts.append([one + other for one, other in zip(*sums, strict=True)])
    total, from_token, of_both = (np.concatenate(part) for part in zip(*parts, strict=True))
    shares = [
        np.divide(errors, total, out=np.full(len(total), np.nan), where=total > 0) for errors in (from_token, of_both)
    ]
    return Prediction(*(1 - share for share in shares))
