"""Against a slow twin that resamples rows of a table, and against what is known of simple cases."""

import numpy as np
import pytest

from faithfulness_plugin.results.hierarchical_bootstrap import hierarchical_bootstrap
from faithfulness_plugin.results.schema import Interval

GENERATOR = np.random.default_rng(1)


def mean_ratio(sums: np.ndarray) -> np.ndarray:
    return (sums[..., 0] / sums[..., 1]).mean(-1)


def width(of: Interval) -> float:
    assert of.low is not None
    assert of.high is not None
    return of.high - of.low


def slow(parts: list[np.ndarray], *, own_prompts: bool, draws: int = 4000) -> tuple[float, float]:
    """Draw seeds, then prompts, one after the other, as the words say it."""
    generator, values = np.random.default_rng(7), []
    n_seeds, n_prompts = len(parts), parts[0].shape[1]
    for _ in range(draws):
        prompts, of_draw = generator.integers(n_prompts, size=n_prompts), []
        for seed in generator.integers(n_seeds, size=n_seeds):
            if own_prompts:
                prompts = generator.integers(n_prompts, size=n_prompts)
            numerator = sum(parts[seed][0, prompt] for prompt in prompts)
            of_draw.append(numerator / sum(parts[seed][1, prompt] for prompt in prompts))
        values.append(sum(of_draw) / n_seeds)
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def noisy(n_seeds: int, n_prompts: int, between: float) -> list[np.ndarray]:
    """Seeds that differ, on prompts that are hard or easy for all of them."""
    hard = GENERATOR.gamma(2, size=n_prompts)
    levels = 1 + between * GENERATOR.normal(size=n_seeds)
    return [
        np.stack([level * hard * GENERATOR.gamma(20, 1 / 20, size=n_prompts), np.ones(n_prompts)]) for level in levels
    ]


@pytest.mark.parametrize("own_prompts", [False, True])
@pytest.mark.parametrize("between", [0.0, 0.3])
def test_it_is_what_the_slow_twin_finds(own_prompts, between):
    parts = noisy(4, 12, between)
    found, (low, high) = (
        hierarchical_bootstrap(parts, mean_ratio, own_prompts=own_prompts),
        slow(parts, own_prompts=own_prompts),
    )
    assert found.low == pytest.approx(low, abs=0.06 * (high - low))
    assert found.high == pytest.approx(high, abs=0.06 * (high - low))
    assert found.mean == pytest.approx(np.mean([of[0].sum() / of[1].sum() for of in parts]))
    assert found.n == 12


def test_prompts_that_all_seeds_share_do_not_average_out():
    parts = noisy(8, 20, 0.0)
    shared, own = (width(hierarchical_bootstrap(parts, mean_ratio, own_prompts=own)) for own in (False, True))
    assert shared > 1.8 * own


def test_a_single_seed_leaves_prompts_alone():
    parts = noisy(1, 200, 0.0)
    found = hierarchical_bootstrap(parts, mean_ratio)
    spread = np.std(parts[0][0], ddof=1) / np.sqrt(200)
    assert width(found) == pytest.approx(2 * 1.96 * spread, rel=0.1)


def test_draws_for_which_it_is_undefined_are_left_out():
    parts = [np.stack([np.ones(6), np.ones(6)])]

    def now_and_then(sums: np.ndarray) -> np.ndarray:
        values = mean_ratio(sums)
        return np.where(np.arange(len(values)) % 2 == 1, np.nan, values)

    found = hierarchical_bootstrap(parts, now_and_then)
    assert (found.low, found.mean, found.high) == (1, 1, 1)
