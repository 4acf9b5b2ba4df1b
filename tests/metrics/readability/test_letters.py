"""First letters: probes, main features, absorption."""

import numpy as np
import pytest
import readability_twins as twins
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from faithfulness_plugin.metrics.readability.absorption import absorption
from faithfulness_plugin.metrics.readability.f1 import best_threshold, f1_score
from faithfulness_plugin.metrics.readability.letter_probes import letter_probes, probe_quality
from faithfulness_plugin.metrics.readability.main_features import main_features

SEEDS = st.integers(0, 10_000)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=20))
def test_the_best_threshold_is_the_best_of_all(pairs):
    scores, actual = np.array([s for s, _ in pairs], float), np.array([a for _, a in pairs])
    threshold = best_threshold(scores, actual)
    assert twins.f1(scores > threshold, actual) == pytest.approx(twins.largest_f1(scores, actual))
    assert f1_score(scores > 1, actual) == pytest.approx(twins.f1(scores > 1, actual))


def words(seed, n=300, d=12):
    """Outputs that write the first five letters along five directions, one of them weakly, in noise."""
    rng = np.random.default_rng(seed)
    letters = rng.integers(5, size=n)
    return rng, letters, np.eye(d)[letters] * np.where(letters == 4, 0.2, 1.0)[:, None] + rng.normal(size=(n, d)) * 0.15


@given(SEEDS)
def test_probes_find_the_letters_that_are_written(seed):
    _, letters, y = words(seed)
    probes = letter_probes(y[:200], letters[:200])
    found = probe_quality(probes, y[200:], letters[200:])
    assert (found.f1[:4] > 0.85).all()
    assert found.f1[4] <= found.f1[:4].max()
    assert np.isnan(found.f1[5:]).all()
    assert found.accuracy > 0.6 > found.chance
    np.testing.assert_allclose(np.linalg.norm(probes.directions[:5], axis=1), 1)
    # by the definition, word by word
    scores = probes.scores(y[200:])
    right = [int(np.argmax(row)) == letter for row, letter in zip(scores, letters[200:], strict=True)]
    assert found.accuracy == pytest.approx(np.mean(right))
    assert found.f1[1] == pytest.approx(twins.f1(scores[:, 1] > probes.thresholds[1], letters[200:] == 1))


def test_probes_of_noise_are_at_chance():
    rng = np.random.default_rng(0)
    letters = rng.integers(26, size=1200)
    y = rng.normal(size=(1200, 30))
    found = probe_quality(letter_probes(y[:900], letters[:900]), y[900:], letters[900:])
    assert found.accuracy < 0.1
    assert np.nanmean(found.f1) < 0.15


@given(SEEDS)
def test_main_features_are_those_of_the_pursuit_and_end_by_f1(seed):
    rng = np.random.default_rng(seed)
    actual = rng.random(80) < 0.3
    acts = np.maximum(0, rng.normal(size=(80, 10)))
    acts[:, 3] = np.maximum(0, actual * (rng.random(80) < 0.6) + 0.05 * rng.normal(size=80))
    acts[:, 7] = actual * (acts[:, 3] < 0.5) * 1.0
    acts[:, 9] = 0
    fit, test = slice(0, 60), slice(60, 80)
    if not actual[fit].any():
        return
    found = main_features(csr_array(acts[fit]), actual[fit], csr_array(acts[test]), actual[test])
    chosen = twins.chosen_features(acts[fit], actual[fit], 10)
    assert list(found.features) == chosen[: len(found.features)]
    assert all(later > earlier + 0.03 for earlier, later in zip(found.f1, found.f1[1:], strict=False))
    # with one more it would have grown by less, if there is one
    if 0 < len(found.features) < min(len(chosen), 10):
        both = acts[:, chosen[: len(found.features) + 1]]
        away = both[fit] - both[fit].mean(0)
        weights = np.linalg.pinv(away) @ (actual[fit] - actual[fit].mean())
        threshold = best_threshold(both[fit] @ weights, actual[fit])
        assert twins.f1(both[test] @ weights > threshold, actual[test]) <= found.f1[-1] + 0.03 + 1e-9


def test_a_letter_in_two_parts_is_split_in_two():
    rng = np.random.default_rng(0)
    actual, part = np.arange(400) % 4 == 0, np.arange(400) % 8 == 0
    acts = rng.random((400, 12)) * (rng.random((400, 12)) < 0.1)
    acts[:, 2], acts[:, 5] = actual & part, actual & ~part
    of = csr_array(acts)
    found = main_features(of[:200], actual[:200], of[200:], actual[200:])
    assert set(found.features) == {2, 5}
    assert found.f1[1] == 1.0


def test_a_letter_that_no_feature_tells_has_no_main_feature():
    nothing = csr_array((10, 3))
    actual = np.arange(10) < 5
    assert main_features(nothing, actual, nothing, actual).features == ()


@given(SEEDS, st.lists(st.integers(0, 7), max_size=3, unique=True))
def test_absorption_word_by_word(seed, main):
    rng = np.random.default_rng(seed)
    acts = rng.random((12, 8)) * (rng.random((12, 8)) < 0.3)
    W_dec, direction = rng.normal(size=(8, 5)), np.eye(5)[0]
    y = acts @ W_dec + 0.3 * rng.normal(size=(12, 5))
    found = absorption(acts, W_dec, y, direction, main)
    assert (found.silent, found.absorbed) == twins.absorbed_words(acts, W_dec, y, direction, main)
    assert found.words == 12


def test_absorption_of_no_words():
    assert absorption(np.zeros((0, 3)), np.eye(3), np.zeros((0, 3)), np.eye(3)[0], [0]).to_dict() == {
        "words": 0,
        "silent": 0,
        "absorbed": 0,
    }


def test_a_word_feature_absorbs_the_letter_where_its_decoder_says_it():
    """The planted case of the paper: a feature for "short" writes s, and the feature for s is silent there."""
    letter, word = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])
    W_dec = np.stack([letter, word + letter, word])
    acts = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    found = absorption(acts, W_dec, acts @ W_dec, letter, [0])
    assert found.to_dict() == {"words": 3, "silent": 2, "absorbed": 1}
