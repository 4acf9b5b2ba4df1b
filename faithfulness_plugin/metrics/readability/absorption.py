"""Feature absorption: words at which a letter's main features are silent, and another feature says the letter."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from faithfulness_plugin.metrics.result import MetricResult

ALIGNED, CARRIES = 0.025, 0.4
"""What a feature that absorbs has at least: its decoder's cosine with the probe, and its part of the projection."""


@dataclass(frozen=True)
class Absorption(MetricResult):
    """Words of one letter, of which the probe says so."""

    words: int
    silent: int
    """At which no main feature fires."""
    absorbed: int
    """At which another feature says the letter instead."""


def absorption(
    acts: Float[np.ndarray, "words d_sae"],
    W_dec: Float[np.ndarray, "d_sae d"],
    y: Float[np.ndarray, "words d"],
    direction: Float[np.ndarray, " d"],
    main: Sequence[int],
) -> Absorption:
    """Count the words at which a letter is absorbed.

    With p the probe's unit direction and y the layer's output beyond its mean over words, a word is absorbed where

    - no main feature fires,
    - <y, p> > 0,
    - the feature i with the largest a_i <W_dec^i, p> has cos(W_dec^i, p) >= .025, and
    - a_i <W_dec^i, p> >= .4 <y, p>: it accounts for the letter.

    The last line is scale-free, as SAEBench has it; the paper asks that the feature be ahead of the second by 1, in
    units of one model's logits.

    Args:
        acts: activations at words that begin with the letter, and of which the probe says so.
        W_dec: what features write.
        y: the layer's output at these words, without its mean over words.
        direction: p.
        main: the letter's main features.

    Returns:
        The numbers of words, of silent ones, and of absorbed ones.

    Source: Chanin et al. 2024, "A is for Absorption"; the thresholds of SAEBench (full absorption).

    Feature 0 is the letter's, and at the second word feature 1 says it in its place:

        >>> acts, W_dec = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [0.6, 0.8]])
        >>> absorption(acts, W_dec, acts @ W_dec, np.array([1.0, 0.0]), [0])
        Absorption(words=2, silent=1, absorbed=1)
    """
    silent = ~(acts[:, list(main)] > 0).any(1)
    if not silent.any():
        return Absorption(len(acts), 0, 0)
    along = W_dec @ direction  # [d_sae]
    norms = np.linalg.norm(W_dec, axis=1)
    cosines = np.divide(along, norms, out=np.zeros(len(along)), where=norms > 0)
    contributions = acts[silent] * along  # [silent words, d_sae]
    projection, first = y[silent] @ direction, contributions.argmax(1)
    largest = contributions[np.arange(len(first)), first]
    absorbed = (projection > 0) & (cosines[first] >= ALIGNED) & (largest >= CARRIES * projection)
    return Absorption(len(acts), int(silent.sum()), int(absorbed.sum()))
