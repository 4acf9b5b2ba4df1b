import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faithfulness_plugin.benchmarks.note.page.product_law import product_law


def planted(exponent: float, threshold: float, steepness: float, n: int = 20):
    """Seeds that memorise with a probability logistic in log(r s^exponent / threshold)."""
    r, s = (grid.ravel() for grid in np.meshgrid(np.geomspace(0.003, 0.3, 10), np.geomspace(0.03, 0.6, 10)))
    chance = 1 / (1 + np.exp(-steepness * (np.log(r) + exponent * np.log(s) - np.log(threshold))))
    return r.tolist(), s.tolist(), np.round(n * chance).astype(int).tolist(), [n] * len(r)


@settings(max_examples=20)
@given(threshold=st.floats(0.003, 0.02), steepness=st.floats(2.0, 12.0))
def test_a_planted_product_law_is_recovered(threshold, steepness):
    law = product_law(*planted(1.0, threshold, steepness))
    assert law.threshold == pytest.approx(threshold, rel=0.1)
    assert law.exponent == pytest.approx(1.0, abs=0.1)
    assert law.product > 0.95
    assert law.both - law.product < 0.01
    assert max(law.repeat, law.sparsity) < law.product


@settings(max_examples=20)
@given(exponent=st.sampled_from([0.0, 0.4, 2.0, 3.0]))
def test_another_law_is_told_from_it(exponent):
    law = product_law(*planted(exponent, 0.03 * 0.15**exponent, 5.0))
    assert law.exponent == pytest.approx(exponent, abs=0.15)
    assert law.both > 0.95
    assert law.both - law.product > 0.05


def test_a_law_without_exceptions_has_a_fit():
    r, s, _, n = planted(1.0, 0.004, 5.0)
    law = product_law(r, s, [20 * (a * b > 0.004) for a, b in zip(r, s, strict=True)], n)
    assert law.product > 0.95
    assert law.threshold == pytest.approx(0.004, rel=0.4)


def test_nothing_to_explain_is_refused():
    with pytest.raises(ValueError, match="scan a wider grid"):
        product_law([0.1, 0.2], [0.1, 0.2], [0, 0], [5, 5])
