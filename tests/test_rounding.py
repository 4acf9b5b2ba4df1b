import pytest
import torch

from faithfulness_plugin.rounding import beyond_rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_layer_that_is_run_again_has_not_moved_and_a_change_beyond_rounding_is_kept(dtype):
    W, x = torch.randn(300, 40, dtype=dtype), torch.randn(50, 300, dtype=dtype)
    before, again = x @ W, torch.cat([part @ W for part in x.split(7)])
    again = again * (1 + torch.finfo(dtype).eps)  # another processor's
    assert not beyond_rounding(before, again).any()
    moved = before.clone()
    moved[3] *= 1 + 100 * torch.finfo(dtype).eps
    change = beyond_rounding(before, moved)
    assert change.any(-1).nonzero().flatten().tolist() == [3]
    assert (change[3] == moved[3] - before[3]).all()


def test_a_unit_in_half_precision_is_a_change():
    before = torch.ones(2, 3, dtype=torch.bfloat16)
    after = before.clone()
    after[1, 2] += 2**-7
    assert beyond_rounding(before, after).any(-1).tolist() == [False, True]


def test_what_was_nothing_has_changed_where_it_is_something():
    after = torch.tensor([[0.0, 0.0], [0.0, 1e-20]])
    assert beyond_rounding(torch.zeros(2, 2), after).any(-1).tolist() == [False, True]


def test_a_row_of_zeros_is_measured_by_the_others():
    before = torch.cat([torch.zeros(1, 3), torch.ones(4, 3)])
    after = before.clone()
    after[0, 1] = 1e-8
    assert not beyond_rounding(before, after).any()
    after[0, 1] = 1e-4
    assert beyond_rounding(before, after).any(-1).tolist() == [True, False, False, False, False]
    assert not len(beyond_rounding(torch.zeros(0, 3), torch.zeros(0, 3)))
