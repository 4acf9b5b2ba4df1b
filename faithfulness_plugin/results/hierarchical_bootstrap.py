"""Intervals over two levels, trainings and prompts, by resampling both."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from faithfulness_plugin.results.schema import Interval

RESAMPLES = 4000


def hierarchical_bootstrap(
    parts: Sequence[np.ndarray], statistic: Callable[[np.ndarray], np.ndarray], *, own_prompts: bool = False
) -> Interval:
    """Compute a statistic with its 95 % percentile interval over prompts and seeds.

    Each of 4,000 draws takes seeds with replacement, and prompts as wholes with replacement (tokens of one prompt are
    no independent samples). Seeds that are measured on the same prompts share the draw of prompts, because a hard
    prompt is hard for all of them; drawn anew within each seed, prompts would average out over seeds and the interval
    be too narrow. A comparison is paired where the parts of both sides stand in one array. Draws for which the
    statistic is undefined (NaN) are left out.

    Args:
        parts: [parts, prompts] of each seed: sums over the rows of each prompt.
        statistic: maps sums over prompts [..., seeds, parts] to values [...].
        own_prompts: whether each seed was measured on prompts of its own, which are then drawn within it.

    Returns:
        The statistic of all prompts and seeds, with its interval; n counts prompts.

    Two seeds, one of error 0.2 and one of 0.4 on every prompt:

        >>> import numpy as np
        >>> of_seeds = [np.array([[0.2] * 9, [1.0] * 9]), np.array([[0.4] * 9, [1.0] * 9])]
        >>> found = hierarchical_bootstrap(of_seeds, lambda sums: (sums[..., 0] / sums[..., 1]).mean(-1))
        >>> round(found.low, 6), round(found.mean, 6), round(found.high, 6)
        (0.2, 0.3, 0.4)
    """
    # [seeds, parts, prompts]
    each = np.stack(parts)
    n_seeds, _, n_prompts = each.shape
    times_drawn, seeds = _draws(n_seeds, n_prompts, own_prompts)
    if own_prompts:
        # draw r takes seed s = seeds[r, i] with prompts times_drawn[r, i]: one draw after the other bounds the memory
        sums = np.stack([
            np.einsum("spn,sn->sp", each[s], t) for s, t in zip(seeds, times_drawn, strict=True)
        ])  # fmt: skip
    else:
        # [seeds, parts, prompts] @ [prompts, 4000] -> [4000, seeds, parts]
        sums = np.moveaxis(each @ times_drawn.T, -1, 0)
        # seeds [4000, seeds, 1] picks along axis 1 the seeds of each draw, with replacement
        sums = np.take_along_axis(sums, seeds[..., None], axis=1)
    low, high = np.nanpercentile(statistic(sums), [2.5, 97.5])
    mean = statistic(each.sum(-1)[None])[0]
    return Interval(mean=float(mean), low=float(low), high=float(high), n=n_prompts)


@lru_cache(maxsize=2)
def _draws(n_seeds: int, n_prompts: int, own_prompts: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each draw takes each prompt, [4000, prompts] or [4000, seeds, prompts], and which seeds it
    takes, [4000, seeds]. The draws are the same for all tables, and drawing them takes most of the time."""
    generator = np.random.default_rng(0)
    # counts: sums need no copies of rows
    chances, size = np.full(n_prompts, 1 / n_prompts), (RESAMPLES, n_seeds)
    times_drawn = generator.multinomial(n_prompts, chances, size=size if own_prompts else RESAMPLES)
    return times_drawn, generator.integers(n_seeds, size=size)
