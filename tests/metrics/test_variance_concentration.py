import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from faithfulness_plugin.metrics import variance_concentration


@given(st.integers(2, 300), st.integers(0, 10_000))
def test_it_is_the_smallest_share_of_rows_that_makes_more_than_half(n_rows, seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(n_rows, 3, generator=generator).double() ** 5
    energy = (y - y.mean(0)).square().sum(1).sort(descending=True).values.tolist()
    n, total = 0, 0.0
    while total <= 0.5 * sum(energy):
        total, n = total + energy[n], n + 1
    found = variance_concentration(y)
    assert abs(found.rows_for_half * n_rows - n) <= 1e-9
    assert found.of_top == pytest.approx(sum(energy[: max(1, int(0.02 * n_rows))]) / sum(energy))
    assert found.concentrated == (n / n_rows < 0.02)


def test_a_sink_at_every_first_token_is_warned_of():
    y = torch.randn(64 * 8, 4, generator=torch.Generator().manual_seed(0))
    assert variance_concentration(y).warning == ""
    y[::64] += 200
    found = variance_concentration(y)
    assert found.rows_for_half == pytest.approx(5 / 512)
    assert "0.98 % of the rows make more than half of the variance that FVU divides by (2 % make 98 %)" in found.warning


@pytest.mark.parametrize("y", [torch.ones(5, 2), torch.zeros(0, 2)])
def test_outputs_without_variance_are_refused(y):
    with pytest.raises(ValueError, match="the same on all rows"):
        variance_concentration(y)
