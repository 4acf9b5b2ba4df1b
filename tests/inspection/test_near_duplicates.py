import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from faithfulness_plugin.inspection.near_duplicates import BLOCK, SKETCH, RowSketches, near_duplicates, typical_distance


def by_comparing_all(rows: torch.Tensor, radius: float) -> list[int]:
    """Row after row: the first group whose first row is near, or a new one."""
    typical = radius * typical_distance(rows.numpy())
    first, groups = rows[:0], []
    for row in rows:
        near = (row - first).norm(dim=1) <= (1e-5 * first.norm(dim=1)).clamp(min=typical)
        groups.append(near.tolist().index(True) if near.any() else len(first))
        if not near.any():
            first = torch.cat([first, row[None]])
    return groups


@given(st.integers(0, 10_000), st.integers(1, 60), st.sampled_from([0.0, 0.05, 0.3]))
def test_as_by_comparing_all_rows(seed, n, radius):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    rows = rows[torch.randint(n, (2 * n,), generator=generator)]  # some of them several times
    rows += 0.01 * torch.randint(2, rows.shape, generator=generator)
    assert near_duplicates(rows, radius).tolist() == by_comparing_all(rows, radius)


@pytest.mark.parametrize("radius", [0.0, 0.05])
def test_copies_that_were_computed_twice_are_near_duplicates_however_many_there_are(radius):
    """Most pairs are as far apart as rounding makes them, and so is the typical distance."""
    rows = torch.cat([torch.ones(90, 8), torch.randn(10, 8)])
    rows[:90] *= 1 + 1e-7 * torch.randint(-1, 2, (90, 8))
    groups = near_duplicates(rows, radius)
    assert not groups[:90].any()
    assert groups[90:].tolist() == list(range(1, 11))


def test_a_chain_of_neighbours_is_not_one_group():
    line = torch.linspace(0, 1, 200)[:, None]
    groups = near_duplicates(line, 0.05)
    assert 5 < groups.max() < 100
    widest = max(line[groups == g].max() - line[groups == g].min() for g in groups.unique())
    assert widest <= 2 * 0.05 * typical_distance(line.numpy()) + 1e-6


def test_the_typical_distance_is_that_of_most_pairs_whatever_a_few_huge_rows_do():
    rows = torch.randn(4000, 50, dtype=torch.float64)
    every = torch.pdist(rows[:400]).median().item()
    assert typical_distance(rows.numpy()) == pytest.approx(every, rel=0.03)
    rows[::128] *= 1000
    assert typical_distance(rows.numpy()) == pytest.approx(every, rel=0.05)
    assert near_duplicates(rows, 0.05).max() == 3999


def test_more_rows_than_a_block_all_alike_or_all_apart():
    assert not near_duplicates(torch.ones(3000, 4)).any()
    grid = torch.cartesian_prod(*[torch.arange(12.0)] * 3)
    assert len(grid) > BLOCK
    assert near_duplicates(grid).tolist() == list(range(len(grid)))


def test_sketches_of_narrow_rows_are_the_rows_and_of_wide_ones_keep_distances():
    narrow = torch.randn(5, SKETCH)
    assert (RowSketches(SKETCH)(narrow) == narrow).all()  # no product: the rows themselves
    wide = torch.randn(200, 600)
    sketched = RowSketches(600)(wide)
    assert sketched.shape == (200, SKETCH)
    torch.testing.assert_close(sketched, RowSketches(600)(wide))
    ratios = torch.pdist(sketched).numpy() / torch.pdist(wide).numpy()
    assert np.mean(ratios**2) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("n", "radius", "message"), [(0, 0.1, "no row"), (3, 1.0, "radius=1.0"), (3, -0.1, "radius")])
def test_no_rows_and_other_radii_are_refused(n, radius, message):
    with pytest.raises(ValueError, match=message):
        near_duplicates(torch.zeros(n, 2), radius)
