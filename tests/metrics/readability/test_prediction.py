"""Predictions of activations: empirical Bayes means, ridge by products alone, and held-out R^2."""

import numpy as np
import pytest
import readability_twins as twins
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from faithfulness_plugin.metrics.readability.neighbours import Neighbours
from faithfulness_plugin.metrics.readability.prediction import Halves, prediction
from faithfulness_plugin.metrics.readability.ridge import PENALTIES, Ridge
from faithfulness_plugin.metrics.readability.token_means import shrunk_token_means

SEEDS = st.integers(0, 10_000)


def text(seed, n_rows=60, n_tokens=6, d=3):
    """Places and embeddings of a text, the last number standing for what is before a prompt."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(n_tokens, size=n_rows)
    before = np.concatenate([[n_tokens, n_tokens], tokens])
    places = np.stack([tokens, before[1:-1], before[:-2]], axis=1)
    embeddings = np.concatenate([rng.normal(size=(n_tokens, d)), np.zeros((1, d))])
    return rng, places, embeddings


@given(SEEDS, st.integers(1, 12))
def test_token_means_are_the_estimate_worked_out_row_by_row(seed, n_tokens):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(n_tokens, size=25)
    acts = np.maximum(0, rng.normal(size=(25, 4)) + rng.normal(size=(n_tokens, 4))[tokens])
    acts[:, 3] = 1.5  # constant
    found = shrunk_token_means(acts, tokens, n_tokens + 1)
    np.testing.assert_allclose(found, twins.token_means(acts, tokens, n_tokens + 1), atol=1e-9)


def test_noise_is_shrunk_to_the_mean_and_what_the_token_decides_is_not():
    rng = np.random.default_rng(0)
    tokens = rng.integers(50, size=2000)
    acts = np.stack([rng.normal(size=2000), (tokens % 2).astype(float)], axis=1)
    means = shrunk_token_means(acts, tokens, 50)
    raw = np.array([acts[tokens == v, 0].mean() for v in range(50)])
    assert means[:, 0].std() < 0.5 * raw.std()
    np.testing.assert_allclose(means[:, 1], np.arange(50) % 2, atol=1e-12)


@given(SEEDS)
def test_ridge_is_the_hat_matrix_with_the_penalty_of_least_gcv(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(30, 5))
    x -= x.mean(0)
    r = np.stack([x @ rng.normal(size=5) + rng.normal(size=30), rng.normal(size=30)], axis=1)
    r -= r.mean(0)
    gram = x.T @ x
    found = Ridge(gram, 30).coefficients(x.T @ r, (r**2).sum(0))
    scale = np.linalg.eigvalsh(gram).mean()
    for n in (0, 1):
        slow = twins.ridge_by_cross_validation(x, r[:, n], [scale * p for p in PENALTIES])
        np.testing.assert_allclose(found[:, n], slow, atol=1e-9)


def test_ridge_of_no_rows_that_differ_predicts_nothing():
    assert not Ridge(np.zeros((2, 2)), 5).coefficients(np.ones((2, 1)), np.ones(1)).any()


@given(SEEDS)
def test_products_with_neighbours_are_those_of_the_matrix_itself(seed):
    rng, places, embeddings = text(seed)
    center, values = rng.normal(size=9), rng.normal(size=(60, 2))
    x = twins.neighbour_rows(places, embeddings)
    of = Neighbours(places, embeddings, center)
    np.testing.assert_allclose(of.mean, x.mean(0), atol=1e-9)
    np.testing.assert_allclose(of.gram, (x - center).T @ (x - center), atol=1e-9)
    np.testing.assert_allclose(of.cross(values), (x - center).T @ values, atol=1e-9)
    np.testing.assert_allclose(Neighbours(places, embeddings).center, x.mean(0), atol=1e-9)


@given(SEEDS)
def test_r2_is_that_of_predictions_row_by_row(seed):
    rng, places, embeddings = text(seed, n_rows=40)
    x = twins.neighbour_rows(places, embeddings)
    acts = np.maximum(0, np.stack([x[:, 0] + x[:, 4], rng.normal(size=40), x[:, 3], np.zeros(40)], axis=1))
    second = np.arange(40) % 20 >= 10
    found = prediction(csr_array(acts), Halves(places, embeddings, second))
    token, both = twins.held_out_r2(acts, places, embeddings, second, PENALTIES)
    np.testing.assert_allclose(found.token, token, atol=1e-8)
    np.testing.assert_allclose(found.neighbours, both, atol=1e-8)
    assert np.isnan(found.token[3])


def test_what_the_token_before_decides_is_predicted_by_neighbours_alone():
    rng, places, embeddings = text(0, n_rows=4000, n_tokens=30, d=8)
    acts = np.maximum(0, embeddings[places[:, 1], 0])[:, None]
    found = prediction(csr_array(acts), Halves(places, embeddings, np.arange(4000) % 2 == 1))
    assert found.token[0] < 0.05
    assert found.neighbours[0] > 0.5
    noise = csr_array(rng.random((4000, 3)))
    for r2 in vars(prediction(noise, Halves(places, embeddings, np.arange(4000) % 2 == 1))).values():
        assert r2 == pytest.approx(0, abs=0.02)


def test_many_features_are_those_of_each_alone():
    rng, places, embeddings = text(1, n_rows=80)
    acts = csr_array(rng.random((80, 300)) * (rng.random((80, 300)) < 0.2))
    halves = Halves(places, embeddings, np.arange(80) >= 40)
    whole, some = prediction(acts, halves), prediction(acts.tocsc()[:, [7, 200, 299]], halves)
    np.testing.assert_allclose(whole.neighbours[[7, 200, 299]], some.neighbours, atol=1e-10)
    assert prediction(acts.tocsc()[:, []], halves).token.shape == (0,)
