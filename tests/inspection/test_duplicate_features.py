import numpy as np
import readability_twins as twins
from hypothesis import given
from hypothesis import strategies as st

from faithfulness_plugin.inspection.duplicate_features import duplicate_features
from faithfulness_plugin.inspection.near_duplicates import typical_distance


@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.3, 0.8]))
def test_against_every_pair(seed, radius):
    rng = np.random.default_rng(seed)
    W_enc, W_dec = rng.normal(size=(6, 20)), rng.normal(size=(20, 4))
    W_enc[:, 3], W_dec[3] = 2 * W_enc[:, 8], W_dec[8] + 0.01  # a twin
    W_dec[5] = W_dec[6]  # writes the same and reads something else
    both = np.concatenate([W_enc.T / np.linalg.norm(W_enc.T, axis=1, keepdims=True),
                           W_dec / np.linalg.norm(W_dec, axis=1, keepdims=True)], axis=1) / 2**0.5  # fmt: skip
    found = duplicate_features(W_enc, W_dec, radius)
    assert found.tolist() == twins.features_with_a_twin(W_enc, W_dec, radius, typical_distance(both))
    assert found[[3, 8]].all()


def test_few_features_have_none():
    assert not duplicate_features(np.zeros((3, 0)), np.zeros((0, 3))).any()
    assert not duplicate_features(np.ones((3, 1)), np.ones((1, 3))).any()
