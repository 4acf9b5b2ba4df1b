import pytest
from hypothesis import given
from hypothesis import strategies as st

from faithfulness_plugin.results.intervals import interval, share
from faithfulness_plugin.results.markdown import interval_text
from faithfulness_plugin.results.tables import Table


def test_the_interval_is_students():
    result = interval([1.0, 2.0, 3.0, 4.0])
    half = 3.182446 * 1.290994 / 2  # t(0.975, 3) s / sqrt 4
    assert result.mean == 2.5
    assert result.low == pytest.approx(2.5 - half, rel=1e-5)
    assert result.high == pytest.approx(2.5 + half, rel=1e-5)
    assert result.n == 4


def test_one_value_has_no_interval():
    assert interval([0.5]).model_dump() == {"mean": 0.5, "low": None, "high": None, "n": 1}


@given(n=st.integers(1, 50), data=st.data())
def test_the_share_is_wilsons(n, data):
    k = data.draw(st.integers(0, n))
    z, p = 1.959963984540054, k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    result = share(k, n)
    assert result.low == pytest.approx(max(0, centre - half), abs=1e-12)
    assert result.high == pytest.approx(min(1, centre + half), abs=1e-12)


def test_fewer_than_five_values_are_shown_by_their_range():
    assert interval_text(interval([0.137, 0.479]), 3) == "0.308 (0.137 to 0.479)"
    assert interval([0.1, 0.2, 0.3, 0.4]).seen == (0.1, 0.4)
    assert interval([0.5]).seen is None
    five = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert five.seen is None
    assert "seen" not in five.model_dump()  # so that files and their fingerprints are as they were
    assert interval_text(five, 2) == "3.00 ± 1.96"


def test_csv_has_the_range_of_few_values_in_place_of_bounds():
    table = Table(["of", "score"], [["few", interval([0.0, 1.0])], ["many", interval([0.0, 1.0] * 3)]], "")
    header, few, many = table.render("csv").splitlines()
    assert header == "of,score mean,score low,score high,score n,score least,score largest"
    assert few == "few,0.5,,,2,0.0,1.0"
    assert many.endswith(",6,,")


@pytest.mark.parametrize(("values", "drawn"), [([2.0], (2.0, 2.0)), ([0.1, 0.5], (0.1, 0.5))])
def test_figures_draw_what_tables_show_of_few_values(values, drawn):
    assert interval(values).drawn == drawn


def test_figures_draw_the_interval_of_five_values():
    of = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert of.drawn == (of.low, of.high)
