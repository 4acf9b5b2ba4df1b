import pytest
from hypothesis import given
from hypothesis import strategies as st

from faithfulness_plugin.benchmarks.note.crossing import crossing


def test_between_two_runs_numbers_are_interpolated():
    place = crossing([3.0, 2.0, 1.0], 1.25, [0.1, 0.2, 0.3])
    assert place is not None
    assert place.read([30.0, 20.0, 10.0]) == pytest.approx(12.5)
    assert place.read([1.0, 1.0, 1e-4], log=True) == pytest.approx(1e-3)


def test_of_several_passages_the_one_with_the_lowest_fvu():
    place = crossing([1.0, 2.0, 1.0, 2.0], 1.5, [0.5, 0.4, 0.1, 0.2])
    assert place is not None
    assert place.before == 2


@given(st.lists(st.floats(2, 5), min_size=1, max_size=6), st.floats(0, 1.9))
def test_a_curve_on_one_side_passes_nowhere(x, target):
    assert crossing(x, target, [0.1] * len(x)) is None


@given(st.lists(st.floats(0, 5), min_size=2, max_size=6, unique=True), st.floats(0, 1))
def test_a_value_of_the_curve_itself_is_read_off_there(x, share):
    x = sorted(x)
    target = x[0] + share * (x[-1] - x[0])
    place = crossing(x, target, [0.1] * len(x))
    if x[0] < target <= x[-1]:
        assert place is not None
        assert place.read(x) == pytest.approx(target)
