"""Relative errors on held-out prompts, with intervals over prompts.

A relative error is a ratio of means over rows.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from faithfulness_plugin.directions import Directions
from faithfulness_plugin.measure.config import HALF_WAY
from faithfulness_plugin.measure.schema import ByPrompt, HeldOutRecord, LayerRecord, SplicedRecord
from faithfulness_plugin.results.hierarchical_bootstrap import hierarchical_bootstrap
from faithfulness_plugin.results.schema import Interval

Parts = tuple[ByPrompt, ByPrompt]
"""Numerator and denominator of a relative error, prompt by prompt."""
RelativeError = Callable[[HeldOutRecord, LayerRecord, Sequence[float]], Parts]
"""Takes the transcoder's record, the layer's, and the distances of their response curves."""


def fvu(of: HeldOutRecord, layer: LayerRecord, distances: Sequence[float]) -> Parts:
    """Read ||t - f||^2 and ||f - E f||^2.

    Args:
        of: the transcoder's record.
        layer: the layer's record.
        distances: are not used.

    Returns:
        Numerator and denominator, prompt by prompt.
    """
    del distances
    return of.error, layer.variance


def jacobian_error(directions: Directions) -> RelativeError:
    """Choose ||(J_t - J_f) R||^2 relative to ||J_f R||^2.

    Args:
        directions: R.

    Returns:
        A function that reads both, prompt by prompt.
    """
    return lambda of, layer, _: (of.jacobian_error[directions], layer.jacobian[directions])


def jacobian_floor(directions: Directions) -> RelativeError:
    """Choose the least Jacobian error that the number of active features allows, relative to ||J_f R||^2.

    Args:
        directions: R.

    Returns:
        A function that reads both, prompt by prompt.
    """
    return lambda of, layer, _: (of.floor[directions], layer.jacobian[directions])


def response_error(directions: Directions, distance: float = HALF_WAY) -> RelativeError:
    """Choose ||D_t - D_f||^2 relative to ||D_f||^2, for steps of one length.

    Args:
        directions: of the steps.
        distance: their length, one of the config's.

    Returns:
        A function that reads both, prompt by prompt.
    """

    def parts(of: HeldOutRecord, layer: LayerRecord, distances: Sequence[float]) -> Parts:
        at = distances.index(distance)
        return of.response_error[directions][at], layer.response[directions][at]

    return parts


def delta_ce(of: HeldOutRecord, layer: LayerRecord, distances: Sequence[float]) -> Parts:
    """Read what the transcoder in the layer's place costs in cross-entropy, in nats, and the tokens.

    Args:
        of: the transcoder's record.
        layer: is not used.
        distances: are not used.

    Returns:
        Numerator and denominator, prompt by prompt.
    """
    del layer, distances
    spliced = _spliced(of)
    return [ce - clean for ce, clean in zip(spliced.ce, spliced.ce_clean, strict=True)], _tokens(spliced)


def kl(of: HeldOutRecord, layer: LayerRecord, distances: Sequence[float]) -> Parts:
    """Read the KL divergence of the spliced model's predictions, in nats, and the tokens.

    Args:
        of: the transcoder's record.
        layer: is not used.
        distances: are not used.

    Returns:
        Numerator and denominator, prompt by prompt.
    """
    del layer, distances
    return _spliced(of).kl, _tokens(_spliced(of))


def ce_recovered(of: HeldOutRecord, layer: LayerRecord, distances: Sequence[float]) -> Parts:
    """Read CE_zero - CE_t and CE_zero - CE_f, whose ratio is the share of the layer's worth that is kept.

    Args:
        of: the transcoder's record.
        layer: is not used.
        distances: are not used.

    Returns:
        Numerator and denominator, prompt by prompt.
    """
    del layer, distances
    s = _spliced(of)
    kept = [zero - ce for zero, ce in zip(s.ce_zero, s.ce, strict=True)]
    return kept, [zero - clean for zero, clean in zip(s.ce_zero, s.ce_clean, strict=True)]


def _spliced(of: HeldOutRecord) -> SplicedRecord:
    if of.spliced is None:
        raise ValueError("a result of version 0.8 or before has no losses by prompt: measure again")
    return of.spliced


def _tokens(spliced: SplicedRecord) -> ByPrompt:
    return [float(spliced.tokens)] * len(spliced.ce)


def ratio(sums: np.ndarray) -> np.ndarray:
    """Divide sums to relative errors.

    Args:
        sums: numerators and denominators, [..., seeds, 2].

    Returns:
        The error of each seed, [..., seeds]; NaN where the denominator is 0.
    """
    return np.divide(sums[..., 0], sums[..., 1], out=np.full(sums.shape[:-1], np.nan), where=sums[..., 1] > 0)


def over_prompts(parts: Sequence[tuple[ArrayLike, ArrayLike]]) -> Interval:
    """Average the relative errors of several seeds, with a 95 % interval over prompts and seeds.

    Args:
        parts: numerator and denominator [prompts] of each seed.

    Returns:
        The mean and its interval.
    """
    return hierarchical_bootstrap([np.array(of) for of in parts], lambda sums: ratio(sums).mean(-1))
