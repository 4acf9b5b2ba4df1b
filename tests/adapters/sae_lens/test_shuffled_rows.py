from collections.abc import Iterator
from copy import deepcopy
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from faithfulness_plugin.adapters.sae_lens.shuffled_rows import ShuffledRows


class Numbered(Iterator[torch.Tensor]):
    """Rows 0, 1, 2, ..., so many at a time, in turn; `total` of them."""

    def __init__(self, sizes: list[int], total: int | None = None, taken: int = 0, begun: int = 0) -> None:
        self.sizes, self.total, self.taken, self.begun = sizes, total, taken, begun

    def __next__(self) -> torch.Tensor:
        if self.taken == self.total:
            raise StopIteration
        n = self.sizes[self.begun % len(self.sizes)]
        end = self.taken + n if self.total is None else min(self.total, self.taken + n)
        rows = torch.arange(self.taken, end).double()
        self.taken, self.begun = end, self.begun + 1
        return torch.stack([rows, -rows], dim=1)


def shuffled(source: Iterator[torch.Tensor], capacity: int, batch: int, mix: float, seed: int = 0) -> ShuffledRows:
    generator = torch.Generator().manual_seed(seed)
    return ShuffledRows(source, capacity=capacity, batch_size=batch, mix_fraction=mix, generator=generator)


def by_hand(numbers: list[int], capacity: int, batch: int, mix: float, seed: int = 0) -> list[list[int]]:
    """With lists: keep what is not served, add new ones behind, shuffle, serve."""
    generator = torch.Generator().manual_seed(seed)
    waiting: list[int] = []
    batches: list[list[int]] = []
    numbers = list(numbers)
    while len(waiting) + len(numbers) >= capacity:
        n = capacity - len(waiting)
        waiting, numbers = waiting + numbers[:n], numbers[n:]
        if mix > 0:
            waiting = [waiting[i] for i in torch.randperm(capacity, generator=generator)]
        for _ in range(max(1, int(capacity * (1 - mix)) // batch)):
            batches.append(waiting[:batch])
            waiting = waiting[batch:]
    return batches


@st.composite
def settings(draw: st.DrawFn) -> tuple[list[int], int, int, float]:
    capacity = draw(st.integers(1, 30))
    sizes = draw(st.lists(st.integers(0, 20), min_size=1, max_size=4).filter(any))
    mix = draw(st.sampled_from([0.0, 0.01, 0.3, 0.5, 0.9, 1.0]))
    return sizes, capacity, draw(st.integers(1, capacity)), mix


@pytest.mark.exact("copies of the same numbers")
@given(settings(), st.integers(0, 150))
def test_every_row_is_served_once_or_waits_in_the_buffer(setting, total):
    sizes, capacity, batch, mix = setting
    batches = list(shuffled(Numbered(sizes, total), capacity, batch, mix))
    assert all(len(rows) == batch for rows in batches)
    assert all(torch.equal(rows[:, 1], -rows[:, 0]) for rows in batches)
    served = [int(i) for rows in batches for i in rows[:, 0]]
    assert len(set(served)) == len(served)
    assert set(served) <= set(range(total))
    assert 0 <= total - len(served) < capacity
    if mix == 0:
        assert served == list(range(len(served)))


@given(settings(), st.integers(0, 150))
def test_it_is_the_mixing_done_by_hand(setting, total):
    sizes, capacity, batch, mix = setting
    batches = [rows[:, 0].long().tolist() for rows in shuffled(Numbered(sizes, total), capacity, batch, mix)]
    assert batches == by_hand(list(range(total)), capacity, batch, mix)


@given(settings())
def test_memory_is_the_buffer_and_what_the_source_yields_at_a_time(setting):
    sizes, capacity, batch, mix = setting
    rows = shuffled(Numbered(sizes), capacity, batch, mix)
    for _ in range(20):
        next(rows)
        assert rows.buffer is not None
        assert rows.carry is not None
        assert len(rows.buffer) == capacity
        assert rows.carry.untyped_storage().nbytes() <= max(sizes) * 2 * 8
        state = rows.state_dict()
        assert sum(len(state[name]) for name in ("buffer", "carry")) <= capacity + max(sizes)


@pytest.mark.exact("copies of the same numbers")
@given(settings(), st.integers(0, 12))
def test_a_saved_place_goes_on_as_if_nothing_had_been(setting, cut):
    sizes, capacity, batch, mix = setting
    source = Numbered(sizes)
    rows = shuffled(source, capacity, batch, mix)
    for _ in range(cut):
        next(rows)
    state, there = deepcopy(rows.state_dict()), Numbered(sizes, taken=source.taken, begun=source.begun)
    resumed = shuffled(there, capacity, batch, mix, seed=99)
    resumed.load_state_dict(state)
    for expected, ours in islice(zip(rows, resumed, strict=False), 12):
        assert torch.equal(expected, ours)


@pytest.mark.exact("whole numbers and masks")
def test_loading_does_not_take_the_generators_or_the_orders_memory():
    rows = shuffled(Numbered([7]), 10, 2, 0.5)
    next(rows)
    state = rows.state_dict()
    order = state["order"].clone()
    resumed = shuffled(Numbered([7], taken=14), 10, 2, 0.5)
    resumed.load_state_dict(state)
    for _ in range(9):
        next(resumed)
    assert torch.equal(state["order"], order)


def test_every_row_is_as_likely_to_come_first():
    first = [int(next(shuffled(Numbered([5]), 5, 1, 0.5, seed))[0, 0]) for seed in range(2000)]
    counts = torch.bincount(torch.tensor(first), minlength=5)
    assert ((counts - 400).abs() < 4.5 * (2000 * 0.2 * 0.8) ** 0.5).all()


def test_old_rows_are_mixed_with_new_ones():
    rows = shuffled(Numbered([40]), 40, 5, 0.5)
    batches = [next(rows)[:, 0] for _ in range(8)]  # two rounds
    second = torch.cat(batches[4:])
    assert (second < 40).any()
    assert (second >= 40).any()


@pytest.mark.exact("draws from generators in one state")
def test_another_seed_is_another_order():
    one, two = (next(shuffled(Numbered([40]), 40, 20, 0.5, seed)) for seed in (0, 1))
    assert not torch.equal(one, two)


@pytest.mark.exact("random states")
def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    rows = shuffled(Numbered([9]), 20, 4, 0.5)
    for _ in range(9):
        next(rows)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("capacity", "batch", "mix", "message"),
    [
        (3, 4, 0.5, r"the buffer holds 3 rows .* and a batch takes 4 .*: make the buffer larger"),
        (8, 4, -0.1, r"activations_mixing_fraction=-0\.1 must be between 0 and 1"),
        (8, 4, 1.1, r"activations_mixing_fraction=1\.1 must be between 0 and 1"),
        (8, 4, float("nan"), "activations_mixing_fraction=nan must be between 0 and 1"),
    ],
)
def test_bad_settings_say_what_is_wanted(capacity, batch, mix, message):
    with pytest.raises(ValueError, match=message):
        shuffled(Numbered([3]), capacity, batch, mix)
