"""What transcoders share, and what a skip connection carries."""

import numpy as np
import pytest
import readability_twins as twins
from hypothesis import given
from hypothesis import strategies as st

from faithfulness_plugin.metrics.readability.matched_features import matched_features
from faithfulness_plugin.metrics.readability.skip_share import skip_share

SEEDS = st.integers(0, 10_000)


@given(SEEDS, st.integers(1, 4), st.integers(4, 5))
def test_the_assignment_is_the_best_of_all(seed, n, m):
    rng = np.random.default_rng(seed)
    W_dec, other = rng.normal(size=(n, 3)), rng.normal(size=(m, 3))
    found = matched_features(W_dec, other)
    assert found.cosine.sum() == pytest.approx(twins.best_assignment(W_dec, other))
    assert len(set(found.other.tolist())) == len(found.one) == n
    for i, j, cosine in zip(found.one, found.other, found.cosine, strict=True):
        norms = np.linalg.norm(W_dec[i]) * np.linalg.norm(other[j])
        assert cosine == pytest.approx(W_dec[i] @ other[j] / norms)


@given(SEEDS)
def test_shares_are_ratios_of_variances(seed):
    rng = np.random.default_rng(seed)
    s, t, f = rng.normal(size=(3, 20, 4)) + 5

    def covariance(a, b):
        return sum(np.cov(a[:, n], b[:, n])[0, 1] for n in range(4))

    found = skip_share(s, t, f)
    assert found.carried == pytest.approx(covariance(s, f) / covariance(f, f))
    assert found.of_output == pytest.approx(covariance(s, s) / covariance(t, t))


def test_constant_outputs_are_refused():
    with pytest.raises(ValueError, match="the same on all rows"):
        skip_share(np.eye(2), np.eye(2), np.ones((2, 2)))
