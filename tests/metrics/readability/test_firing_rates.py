import numpy as np
import pytest
import readability_twins as twins
from hypothesis import given
from hypothesis import strategies as st

from faithfulness_plugin.metrics.readability.firing_rates import QUANTILES, firing_rates


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(50, 1000))
def test_against_counting_by_hand(fires, n_rows):
    found = firing_rates(np.array(fires), n_rows)
    quantiles, dead, dense = twins.quantiles_and_shares(fires, n_rows, QUANTILES)
    np.testing.assert_allclose(found.quantiles, quantiles, atol=1e-12)
    assert (found.dead, found.dense) == (pytest.approx(dead), pytest.approx(dense))


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="need rows"):
        firing_rates(np.array([0]), 0)
