"""Relative errors on held-out prompts, with intervals over prompts.

A relative error is a ratio of means over rows. Prompts are resampled as wholes: tokens of one prompt are no independent
samples.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from faithfulness_plugin.directions import Directions
from faithfulness_plugin.measure.config import HALF_WAY
from faithfulness_plugin.measure.schema import ByPrompt, HeldOutRecord, LayerRecord
from faithfulness_plugin.results.schema import Interval

RESAMPLES = 4000

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
    return bootstrap([np.array(of) for of in parts], lambda sums: ratio(sums).mean(-1))


def bootstrap(parts: Sequence[np.ndarray], statistic: Callable[[np.ndarray], np.ndarray]) -> Interval:
    """Resample prompts, the same for all seeds, and seeds where there are several. Draws for which the statistic is
    undefined (NaN) are left out.

    Args:
        parts: [parts, prompts] of each seed.
        statistic: maps sums over prompts [..., seeds, parts] to values [...].

    Returns:
        The statistic of all prompts, with its 95 % percentile interval.
    """
    # [seeds, parts, prompts]
    each, generator = np.stack(parts), np.random.default_rng(0)
    n_seeds, _, n_prompts = each.shape
    # how often each draw takes each prompt, [4000, prompts]: sums need no copies of rows
    times_drawn = generator.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=RESAMPLES)
    # [seeds, parts, prompts] @ [prompts, 4000] -> [4000, seeds, parts]
    sums = np.moveaxis(each @ times_drawn.T, -1, 0)
    seeds = generator.integers(n_seeds, size=(RESAMPLES, n_seeds))
    # seeds [4000, seeds, 1] picks along axis 1 the seeds of each draw, with replacement
    low, high = np.nanpercentile(statistic(np.take_along_axis(sums, seeds[..., None], axis=1)), [2.5, 97.5])
    mean = statistic(each.sum(-1)[None])[0]
    return Interval(mean=float(mean), low=float(low), high=float(high), n=n_prompts)
