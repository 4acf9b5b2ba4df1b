import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from faithfulness_plugin.jacobian.probes import DATA_ROWS, PROBES
from faithfulness_plugin.layers.row_differences import MovedRows, RowDifferences


def drawn(probe: str, n_probes: int, shape: tuple[int, ...]) -> tuple[torch.Tensor, RowDifferences, torch.Tensor]:
    """(x, the rows of the probes, the probes themselves), all of one seed."""
    x = torch.randn(*shape, dtype=torch.float64)
    along = DATA_ROWS[probe](x, n_probes, torch.Generator().manual_seed(1))
    return x, along, PROBES[probe](x, n_probes, torch.Generator().manual_seed(1))


@pytest.mark.exact("the same two rows are subtracted and divided")
@given(
    probe=st.sampled_from(sorted(DATA_ROWS)),
    n_probes=st.integers(1, 3),
    shape=st.sampled_from([(1, 4), (6, 4), (2, 3, 4)]),
    step=st.floats(-2, 2),
)
def test_what_a_map_makes_of_probes_is_a_difference_of_what_it_makes_of_rows(probe, n_probes, shape, step):
    x, along, v = drawn(probe, n_probes, shape)
    W, b = torch.randn(4, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    made = x @ W + b
    assert torch.equal(along.of(x), v)
    torch.testing.assert_close(along.of(made), v @ W)
    torch.testing.assert_close(along.moved(made, step), (x + step * v) @ W + b)
    flat = along.of(made).flatten(1, -2)
    rows, columns = torch.randint(flat.shape[1], (7,)), torch.randint(5, (7,))
    for n in range(n_probes):
        torch.testing.assert_close(along.at(made.reshape(-1, 5), n, rows, columns), flat[n, rows, columns])
        assert torch.equal(along.only(n).of(made), along.of(made)[n : n + 1])
        moved, right = MovedRows(made.reshape(-1, 5), along.only(n), step), along.moved(made, step)[n].reshape(-1, 5)
        assert torch.equal(moved.whole(), right)
        assert torch.equal(torch.cat(list(moved.split(4))), right)
        torch.testing.assert_close(moved[rows, columns], right[rows, columns])


@pytest.mark.parametrize("probe", DATA_ROWS)
def test_gradients_are_those_of_the_plain_differences(probe):
    x, along, _ = drawn(probe, 2, (6, 4))
    made = x.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: along.of(z), (made,))
    assert torch.autograd.gradcheck(lambda z: along.moved(z, 0.3), (made,))


@pytest.mark.parametrize("probe", DATA_ROWS)
def test_no_rows_have_no_differences(probe):
    _, along, _ = drawn(probe, 2, (0, 4))
    assert along.of(torch.zeros(0, 5)).shape == (2, 0, 5)
    assert along.moved(torch.zeros(0, 5), 0.5).shape == (2, 0, 5)
