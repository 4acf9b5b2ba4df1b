"""Feature splitting: how many features it takes to tell a word's first letter."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from faithfulness_plugin.metrics.readability.f1 import best_threshold, f1_score
from faithfulness_plugin.metrics.result import MetricResult

JUMP = 0.03
"""A further feature counts where the F1 score grows by more than this."""
MOST = 10


@dataclass(frozen=True)
class MainFeatures(MetricResult):
    """The features that tell one letter, in the order in which they were chosen."""

    features: tuple[int, ...]
    """Empty where no feature fires more on the letter's words than on others; one where the letter is not split."""
    f1: tuple[float, ...]
    """On words that were not fitted, with the first, the first two, ... of them."""


def main_features(
    acts: Any,
    actual: Bool[np.ndarray, " words"],
    test_acts: Any,
    test_actual: Bool[np.ndarray, " test_words"],
    *,
    jump: float = JUMP,
    most: int = MOST,
) -> MainFeatures:
    """Choose the main features of one letter by sparse probes of one feature, two features, and so on.

    The next feature is the one whose activation correlates most with what the probe of those before leaves, positively
    (orthogonal matching pursuit); the probe is least squares on their activations, with the threshold of the largest F1
    score. It ends where F1 on the other words grows by no more than `jump`: the letter is split over as many features
    as were chosen.

    Args:
        acts: activations at the words to fit on, a sparse matrix [words, d_sae] of scipy.
        actual: which of them begin with the letter.
        test_acts: activations at the other words.
        test_actual: which of those do.
        jump: the least growth of F1 for a further feature.
        most: the largest number of features.

    Returns:
        The features, and F1 after each.

    Source: splitting as SAEBench defines it after Chanin et al. 2024, "A is for Absorption" (there features are ranked
    by a logistic probe with an L1 penalty, and the probes of k features are logistic).

    Feature 1 fires at the letter's words alone, so that it is enough:

        >>> from scipy.sparse import csr_array
        >>> acts = csr_array(np.array([[1.0, 2.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]))
        >>> yes = np.array([True, True, False, False])
        >>> main_features(acts, yes, acts, yes)
        MainFeatures(features=(1,), f1=(1.0,))
    """
    columns, test_columns, n = acts.tocsc(), test_acts.tocsc(), len(actual)
    means = np.asarray(columns.sum(0)).ravel() / n
    spread = np.sqrt(np.maximum(np.asarray(columns.multiply(columns).sum(0)).ravel() - n * means**2, 0.0))
    usable = spread > 1e-9 * max(spread.max(initial=0.0), 1e-12)
    target = actual - actual.mean()
    left, chosen, f1 = target, [], []
    while len(chosen) < most:
        # the correlation of each feature with what is left, up to a factor, [d_sae]; `left` has mean 0
        along = np.divide(columns.T @ left, spread, out=np.full(len(spread), -np.inf), where=usable)
        along[chosen] = -np.inf
        best = int(along.argmax()) if len(along) else -1
        if best < 0 or along[best] <= 1e-9:
            break
        x = columns[:, [*chosen, best]].toarray()
        away = x - x.mean(0)
        weights = np.linalg.lstsq(away, target, rcond=None)[0]
        threshold = best_threshold(x @ weights, actual)
        score = f1_score(test_columns[:, [*chosen, best]].toarray() @ weights > threshold, test_actual)
        if f1 and score <= f1[-1] + jump:
            break
        chosen, f1, left = [*chosen, best], [*f1, score], target - away @ weights
    return MainFeatures(tuple(chosen), tuple(f1))
