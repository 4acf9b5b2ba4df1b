"""F1 scores of thresholds."""

import numpy as np
from jaxtyping import Bool, Float


def f1_score(predicted: Bool[np.ndarray, " n"], actual: Bool[np.ndarray, " n"]) -> float:
    """Compute 2 (true positives) / (predicted + actual positives).

    Args:
        predicted: what is predicted.
        actual: what is so.

    Returns:
        From 0 to 1; 0 where nothing is positive on either side.

        >>> f1_score(np.array([True, True, False]), np.array([True, False, False]))
        0.6666666666666666
    """
    positives = int(predicted.sum() + actual.sum())
    return 2 * int((predicted & actual).sum()) / positives if positives else 0.0


def best_threshold(scores: Float[np.ndarray, " n"], actual: Bool[np.ndarray, " n"]) -> float:
    """Find the threshold above which predicting "yes" has the largest F1 score.

    Args:
        scores: larger where "yes" is more likely.
        actual: what is so.

    Returns:
        A number half-way between two scores; infinity where nothing is so.

        >>> best_threshold(np.array([0.0, 1.0, 3.0, 4.0]), np.array([False, False, True, True]))
        2.0
    """
    if not actual.any():
        return float("inf")
    order = np.argsort(-scores, kind="stable")
    sorted_scores, hits = scores[order], actual[order].cumsum()
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + actual.sum())
    # a threshold lies between different scores only, or below the last
    f1[:-1][sorted_scores[:-1] == sorted_scores[1:]] = -1
    last = int(f1.argmax())
    if last + 1 == len(scores):
        return float(sorted_scores[-1] - 1)
    return float((sorted_scores[last] + sorted_scores[last + 1]) / 2)
