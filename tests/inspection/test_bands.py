import numpy as np
import pytest

from faithfulness_plugin.inspection.bands import activation_bands
from faithfulness_plugin.inspection.drawn_firings import DrawnFirings


def drawn(*activations):
    """Features with these activations at rows 0, 1, ..., in that order."""
    rows, values = np.full((len(activations), 64), -1), np.zeros((len(activations), 64))
    for i, of in enumerate(activations):
        rows[i, : len(of)], values[i, : len(of)] = np.arange(len(of)), of
    return DrawnFirings(rows, values)


def test_rows_of_a_band_have_activations_between_its_quartiles():
    values = np.random.default_rng(0).permutation(np.arange(1.0, 65.0))
    top = np.argsort(-values)[:5][None]
    found = activation_bands(drawn(values), top)
    assert found.quartiles[0].tolist() == [16, 32, 48]
    for band, (low, high) in enumerate([(32, 48), (16, 32), (0, 16)]):
        assert all(low < a <= high for a in found.activations[0, band])
        np.testing.assert_array_equal(values[found.rows[0, band]], found.activations[0, band])
    assert len(np.unique(found.rows)) == 6


@pytest.mark.parametrize("n", [0, 1, 2, 5, 9])
def test_few_firings_are_shown_once(n):
    values = np.arange(1.0, n + 1)
    top = np.full((1, 5), -1)
    top[0, : min(n, 5)] = np.argsort(-values)[:5]
    found = activation_bands(drawn(values), top)
    rows = found.rows[found.rows >= 0].tolist()
    assert len(set(rows)) == len(rows)
    assert not set(rows) & set(top[0].tolist())
    assert (found.activations[found.rows < 0] == 0).all()
    assert n == 0 or found.quartiles[0, 0] <= found.quartiles[0, 1] <= found.quartiles[0, 2]
