"""Intervals over held-out prompts, which are drawn anew as wholes: tokens of one prompt are no independent samples."""

from collections.abc import Callable, Sequence

import numpy as np

from faithfulness_plugin.results.schema import Interval

RESAMPLES = 4000


def ratio(sums: np.ndarray) -> np.ndarray:
    """[..., seeds, 2] -> the relative error of each seed; NaN where it would be divided by nothing."""
    return np.divide(sums[..., 0], sums[..., 1], out=np.full(sums.shape[:-1], np.nan), where=sums[..., 1] > 0)


def bootstrap(parts: Sequence[np.ndarray], statistic: Callable[[np.ndarray], np.ndarray]) -> Interval:
    """Of [parts, prompts] per seed: prompts are drawn anew (the same for all seeds), and seeds where there are several.
    Draws for which the statistic is undefined (NaN) are left out.

    Args:
        statistic: of sums over prompts [..., seeds, parts].
    """
    each, generator = np.stack(parts), np.random.default_rng(0)
    n_seeds, _, n_prompts = each.shape
    times_drawn = generator.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=RESAMPLES)
    sums = np.moveaxis(each @ times_drawn.T, -1, 0)
    seeds = generator.integers(n_seeds, size=(RESAMPLES, n_seeds))
    low, high = np.nanpercentile(statistic(np.take_along_axis(sums, seeds[..., None], axis=1)), [2.5, 97.5])
    mean = statistic(each.sum(-1)[None])[0]
    return Interval(mean=float(mean), low=float(low), high=float(high), n=n_prompts)
