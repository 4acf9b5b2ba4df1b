"""The area under the ROC curve, by which scores of features are judged."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import mannwhitneyu


def area_under_curve(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float | None:
    """Compute the probability that a positive has a larger score than another one, ties counting half: U / (n m).

    Args:
        scores: one a feature.
        positive: which of them are the ones to find.

    Returns:
        The area; None where there is no positive, or nothing else.
    """
    n = int(positive.sum())
    if n in (0, len(positive)):
        return None
    return float(mannwhitneyu(scores[positive], scores[~positive]).statistic / (n * (len(positive) - n)))
