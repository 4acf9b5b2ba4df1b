import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from faithfulness_plugin import AbsNetwork, metrics


class Off(torch.nn.Module):
    """|x| times a factor, plus a constant on the first coordinate."""

    def __init__(self, factor: float, shift: float = 0.0) -> None:
        super().__init__()
        self.factor, self.shift = factor, shift

    def forward(self, x):
        y = self.factor * x.abs()
        y[:, 0] += self.shift
        return y


POINT = torch.tensor([1.0, 1, 1, 0, 0])


@given(factor=st.floats(0.2, 2.0))
def test_a_factor_gives_the_same_relative_error_everywhere(factor):
    curves = metrics.near_point(Off(factor), AbsNetwork(5), POINT, (0.1, 0.5), (1.0, 0.2))
    expected = pytest.approx((1 - factor) ** 2, rel=1e-4, abs=1e-9)
    assert [*curves.error, *curves.error_one_changed] == [expected] * 4


def test_one_changed_is_the_mean_over_the_support():
    shift = 0.3
    value = 0.5
    curves = metrics.near_point(Off(1.0, shift), AbsNetwork(5), POINT, (0.1,), (value,))
    assert curves.error_one_changed[0] == pytest.approx(shift**2 / (2 + value**2))
    again = metrics.near_point(Off(1.0, shift), AbsNetwork(5), POINT, (0.1,), (value,))
    assert again.error == pytest.approx(curves.error)
    assert again.error_one_changed == pytest.approx(curves.error_one_changed)


def test_what_has_no_relative_error_is_refused(as_installed):
    with pytest.raises(ValueError, match="not zero"):
        metrics.near_point(Off(1.0), AbsNetwork(5), torch.zeros(5), (0.1,), (1.0,))
    with pytest.raises(ValueError, match="undefined"):
        metrics.near_point(Off(1.0), AbsNetwork(5), torch.eye(5)[0], (0.1,), (0.0,))
