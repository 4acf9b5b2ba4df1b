import itertools

import pytest
import torch
import torch.nn.functional as F
from transformer_lens.hook_points import HookPoint

from faithfulness_plugin import AbsInputs, AbsNetwork
from faithfulness_plugin.inspection.sample import allocate_rows, build_sample, row_sample


def test_it_holds_what_the_layer_reads_and_writes_and_how_it_varies(mlp):
    x = torch.randn(50, 5, dtype=torch.float64)
    sample = row_sample(mlp, x)
    y = mlp(x).detach()
    torch.testing.assert_close(sample.y, y)
    torch.testing.assert_close(sample.mean, y.mean(0))
    assert sample.variance == pytest.approx((y - y.mean(0)).square().sum(1).mean().item())
    assert sample.copies.tolist() == [1] * 50
    assert not sample.y.requires_grad


def test_copies_are_counted():
    rows = next(AbsInputs(8, density=0.5, repeat_frac=0.3, batch_size=200))
    sample = row_sample(AbsNetwork(8), rows)
    point = (rows == AbsInputs(8).point).all(-1)
    assert sample.copies.max() == point.sum()
    assert len(set(sample.groups[point].tolist())) == 1


@pytest.mark.bitwise("sums with one term that is not 0 are exact in any order")
def test_hooks_on_the_layer_show():
    def doubled(tensor: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        return 2 * tensor

    layer, x = AbsNetwork(4), torch.randn(6, 4)
    layer.add_hook("hook_out", doubled)
    assert torch.equal(row_sample(layer, x).y, 2 * x.abs())


def test_parts_cover_all_rows_and_shrink_with_the_memory():
    x = torch.randn(5000, 4)
    sample = row_sample(AbsNetwork(4), x)
    assert [(p.start, p.stop) for p in sample.chunks(16)] == [(0, 4096), (4096, 5000)]
    small = row_sample(AbsNetwork(4), x, memory=0.01)
    parts = list(small.chunks(4096))
    assert parts[0].stop < 100
    assert parts[-1].stop == 5000
    assert all(a.stop == b.start for a, b in itertools.pairwise(parts))
    assert sample.spread(3).tolist() == [0, 2499, 4999]
    assert sample.spread(10**6).tolist() == list(range(5000))


@pytest.mark.exact("copies of the same numbers")
@pytest.mark.parametrize("memory", [1.0, 1e-6])
def test_rows_are_kept_in_memory_or_in_a_file_alike(memory):
    room, rows = allocate_rows(300, 7, torch.float32, memory), torch.randn(300, 7)
    room[:] = rows
    assert torch.equal(room, rows)
    assert torch.equal(F.relu(room), F.relu(rows))


def test_empty_and_broken_samples_are_refused(as_installed):
    with pytest.raises(ValueError, match="one at least"):
        row_sample(AbsNetwork(3), torch.zeros(0, 3))
    with pytest.raises(ValueError, match="pass rows"):
        row_sample(AbsNetwork(3), torch.zeros(3))
    with pytest.raises(ValueError, match="NaN or Inf"):
        row_sample(AbsNetwork(3), torch.full((4, 3), torch.nan))
    rows = torch.ones(5000, 3)
    rows[4321, 1] = torch.inf
    with pytest.raises(ValueError, match=r"in the layer's input, first at row 4,321\."):
        row_sample(AbsNetwork(3), rows)
    with pytest.raises(ValueError, match="d_in=3"):
        row_sample(AbsNetwork(3), torch.zeros(4, 5))


def test_without_rows_a_sample_keeps_its_length_and_takes_no_memory():
    whole = build_sample(torch.randn(40, 6), torch.randn(40, 3))
    left = whole.without_rows()
    assert len(left) == 40
    assert left.x.isnan().all()
    assert left.x.untyped_storage().nbytes() + left.y.untyped_storage().nbytes() <= 8
    assert left.groups is whole.groups
