"""Linear probes that read a word's first letter off a layer's output at that word."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from faithfulness_plugin.metrics.readability.f1 import best_threshold, f1_score
from faithfulness_plugin.metrics.readability.ridge import Ridge
from faithfulness_plugin.metrics.result import MetricResult

N_LETTERS = 26


@dataclass(frozen=True)
class LetterProbes(MetricResult):
    """A linear probe for each letter."""

    directions: Float[np.ndarray, "letters d"]
    """Unit vectors; 0 for a letter that no direction predicts."""
    weights: Float[np.ndarray, "letters d"]
    """The same before they are scaled to unit norm: scores of different letters compare."""
    offsets: Float[np.ndarray, " letters"]
    """The share of words with each letter, which a score begins at."""
    center: Float[np.ndarray, " d"]
    """The mean output over the words that were fitted."""
    thresholds: Float[np.ndarray, " letters"]

    def scores(self, y: Float[np.ndarray, "words d"]) -> Float[np.ndarray, "words letters"]:
        """Compute how much each word looks like each letter.

        Args:
            y: the layer's output at the words.

        Returns:
            The scores.
        """
        return (y - self.center) @ self.weights.T + self.offsets

    def says(self, y: Float[np.ndarray, "words d"]) -> Bool[np.ndarray, "words letters"]:
        """Decide for each word and letter whether the word begins with it.

        Args:
            y: the layer's output at the words.

        Returns:
            True where the probe says yes.
        """
        return self.scores(y) > self.thresholds


@dataclass(frozen=True)
class ProbeQuality(MetricResult):
    """How well the probes do on words that they were not fitted on."""

    f1: Float[np.ndarray, " letters"]
    """NaN for a letter with which no word begins."""
    accuracy: float
    """The share of words whose letter has the largest score."""
    chance: float
    """The accuracy of always answering the most frequent letter."""


def letter_probes(y: Float[np.ndarray, "words d"], letters: Int[np.ndarray, " words"]) -> LetterProbes:
    """Fit a ridge probe to each letter against all others, in closed form (`Ridge`).

    Least squares on the indicator of a letter finds the direction of Fisher's discriminant; the threshold is the one of
    the largest F1 score on the same words, which makes up for the letters' unequal shares.

    Args:
        y: the layer's output at the words.
        letters: the first letter of each, from 0 to 25.

    Returns:
        The probes.

    Source: the first-letter probes of Chanin et al. 2024, "A is for Absorption" (logistic there).

        >>> y = np.repeat(np.eye(2), 5, axis=0)
        >>> letter_probes(y, np.repeat([0, 1], 5)).says(np.eye(2))[:, :2]
        array([[ True, False],
               [False,  True]])
    """
    center, actual = y.mean(0), letters[:, None] == np.arange(N_LETTERS)
    away, target = y - center, actual - actual.mean(0)
    # [letters, d]
    weights = Ridge(away.T @ away, len(y)).coefficients(away.T @ target, (target**2).sum(0)).T
    scores, offsets = away @ weights.T + actual.mean(0), actual.mean(0)
    thresholds = np.array([best_threshold(s, a) for s, a in zip(scores.T, actual.T, strict=True)])
    norms = np.linalg.norm(weights, axis=1, keepdims=True)
    return LetterProbes(weights / np.where(norms > 0, norms, 1), weights, offsets, center, thresholds)


def probe_quality(
    probes: LetterProbes, y: Float[np.ndarray, "words d"], letters: Int[np.ndarray, " words"]
) -> ProbeQuality:
    """Test probes on words.

    Args:
        probes: fitted on other words.
        y: the layer's output at the words.
        letters: the first letter of each, from 0 to 25.

    Returns:
        F1 by letter, and the accuracy of the largest score beside chance.

        >>> y, letters = np.repeat(np.eye(2), 5, axis=0), np.repeat([0, 1], 5)
        >>> found = probe_quality(letter_probes(y, letters), y, letters)
        >>> found.accuracy, found.chance
        (1.0, 0.5)
    """
    says = probes.says(y)
    f1 = [f1_score(says[:, n], letters == n) if (letters == n).any() else np.nan for n in range(N_LETTERS)]
    right = probes.scores(y).argmax(1) == letters
    return ProbeQuality(np.array(f1), float(right.mean()), float(np.bincount(letters).max() / len(letters)))
