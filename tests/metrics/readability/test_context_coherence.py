import numpy as np
import pytest
import readability_twins as twins
from hypothesis import given
from hypothesis import strategies as st

from faithfulness_plugin.metrics.readability.context_coherence import context_coherence


@given(st.integers(0, 10_000), st.integers(2, 6))
def test_against_all_pairs(seed, n_prompts):
    rng = np.random.default_rng(seed)
    prompts = np.concatenate([np.arange(n_prompts), rng.integers(n_prompts, size=12)])
    residual = rng.normal(size=(len(prompts), 4)) + 3
    top = np.array([[0, 5, 7], [2, 1, -1], [3, -1, -1], [-1, -1, -1]]) % len(prompts)
    top[1:, 1:][[0, 1, 2], [1, 1, 1]] = -1
    top[2, 1] = top[3] = -1
    found = context_coherence(residual, prompts, top)
    excess, random = twins.coherence(residual, prompts, top)
    np.testing.assert_allclose(found.excess, excess, atol=1e-10)
    assert found.random == pytest.approx(random, abs=1e-10)
    assert np.isnan(found.excess[2:]).all()


def test_float32_rows_give_the_same():
    rng = np.random.default_rng(0)
    residual, prompts, top = rng.normal(size=(50, 8)) + 10, np.arange(50) // 5, rng.integers(50, size=(3, 4))
    one, other = (context_coherence(residual.astype(dtype), prompts, top) for dtype in (np.float32, np.float64))
    np.testing.assert_allclose(one.excess, other.excess, atol=1e-4)


def test_one_prompt_is_refused():
    with pytest.raises(ValueError, match="one prompt"):
        context_coherence(np.eye(3), np.zeros(3, int), np.array([[0, 1]]))
