import gc
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faithfulness_plugin.store import DerivativeStore, StoredRows, StoreError

WIDTH = 13  # of x, which nothing else here is
SIZES = st.lists(st.integers(2, 7), min_size=1, max_size=6)
few = settings(max_examples=40)


def store_of(
    folder: Path, sizes: list[int], products: list[dict[str, Any]] | None = None, source: dict[str, str] | None = None
) -> DerivativeStore:
    """Rows that are numbered in their first coordinate, over all shards."""
    generator = torch.Generator().manual_seed(7)
    layer = torch.nn.Linear(WIDTH, 3).double()
    made = DerivativeStore.create(
        folder,
        source=source or {},
        d_in=WIDTH,
        d_out=3,
        products=products or [],
        n_shards=len(sizes),
        dtype="float64",
    )
    with made.writing():
        for number, size in enumerate(sizes):
            x = torch.randn(size, WIDTH, dtype=torch.float64, generator=generator)
            x[:, 0] = sum(sizes[:number]) + torch.arange(size)
            made.fill_shard(number, x, lambda rows: layer(rows).sin())
    return made


def numbers(batches: Any, n: int) -> list[int]:
    """Of the rows of the next n batches."""
    return [int(row) for batch in islice(batches, n) for row in batch[:, 0]]


@few
@given(sizes=SIZES, window=st.integers(1, 7), data=st.data())
def test_every_row_is_there_once_an_epoch_whatever_the_batches(tmp_path_factory, sizes, window, data):
    n = sum(sizes)
    batch_size = data.draw(st.integers(1, n))
    rows = StoredRows(store_of(tmp_path_factory.mktemp("s"), sizes), None, batch_size=batch_size, window=window, seed=n)
    batches = list(islice(rows, -(-3 * n // batch_size)))
    assert all(batch.shape == (batch_size, WIDTH + 3) for batch in batches)
    stream = numbers(batches, len(batches))
    for epoch in range(3):
        assert sorted(stream[epoch * n : (epoch + 1) * n]) == list(range(n))


@few
@given(sizes=SIZES, window=st.integers(1, 7), data=st.data())
def test_batches_are_cut_from_one_stream_whatever_their_size(tmp_path_factory, sizes, window, data):
    made, n = store_of(tmp_path_factory.mktemp("s"), sizes), sum(sizes)
    batch_size = data.draw(st.integers(1, n))
    one_by_one = numbers(StoredRows(made, None, batch_size=1, window=window, seed=3), 4 * batch_size)
    assert numbers(StoredRows(made, None, batch_size=batch_size, window=window, seed=3), 4) == one_by_one


def test_the_order_is_the_seeds_and_another_every_epoch(tmp_path):
    made = store_of(tmp_path, [7] * 5)
    orders = [numbers(StoredRows(made, None, batch_size=7, seed=seed), 10) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][:35] != orders[0][35:]


@pytest.mark.exact("random states")
def test_the_order_does_not_depend_on_torchs_own_randomness_nor_does_reading_change_it(tmp_path):
    made = store_of(tmp_path, [7] * 5)
    expected = numbers(StoredRows(made, None, batch_size=5), 10)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert numbers(StoredRows(made, None, batch_size=5), 10) == expected
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_of_a_window_are_mixed(tmp_path):
    made = store_of(tmp_path, [50] * 4)
    shards = [number // 50 for number in numbers(StoredRows(made, None, batch_size=50, window=4), 1)]
    assert set(shards) == {0, 1, 2, 3}
    alone = [number // 50 for number in numbers(StoredRows(made, None, batch_size=50, window=1), 4)]
    assert [len(set(alone[i : i + 50])) for i in range(0, 200, 50)] == [1] * 4


@pytest.mark.exact("copies of the same numbers")
@few
@given(sizes=SIZES.filter(lambda sizes: sum(sizes) >= 6), window=st.integers(1, 7), data=st.data())
def test_processes_put_together_serve_what_one_serves_alone(tmp_path_factory, sizes, window, data):
    made, n = store_of(tmp_path_factory.mktemp("s"), sizes), sum(sizes)
    batch_size = 6 * data.draw(st.integers(1, n // 6))
    steps = 2 * n // batch_size + 2
    options: dict[str, Any] = {"batch_size": batch_size, "window": window, "seed": 5}
    alone = list(islice(StoredRows(made, None, **options), steps))
    for processes in (2, 3):
        shares = [
            list(islice(StoredRows(made, None, rank=rank, processes=processes, **options), steps))
            for rank in range(processes)
        ]
        assert all(len(share) == batch_size // processes for share in shares[0])
        assert all(torch.equal(torch.cat(parts), whole) for *parts, whole in zip(*shares, alone, strict=True))


@pytest.mark.exact("copies of the same numbers")
@few
@given(before=st.integers(0, 9), then=st.sampled_from([1, 2, 3]), first=st.sampled_from([1, 2, 3]))
def test_a_run_goes_on_mid_epoch_on_any_number_of_processes(tmp_path_factory, before, then, first):
    made = store_of(tmp_path_factory.mktemp("s"), [5, 7, 4, 6])
    options: dict[str, Any] = {"batch_size": 6, "window": 2, "seed": 1}
    uninterrupted = list(islice(StoredRows(made, None, **options), 14))
    stopped = StoredRows(made, None, rank=first - 1, processes=first, **options)
    list(islice(stopped, before))
    resumed = [StoredRows(made, None, rank=rank, processes=then, **options) for rank in range(then)]
    for rows in resumed:
        rows.load_state_dict(stopped.state_dict())
    for batch in uninterrupted[before:]:
        assert torch.equal(torch.cat([next(rows) for rows in resumed]), batch)


def test_a_place_that_version_0_8_wrote_is_found_again(tmp_path):
    made = store_of(tmp_path, [5, 6], source={"layer": "a to b, size 1.235"})
    rows = StoredRows(made, None, batch_size=3, seed=1)
    list(islice(rows, 2))
    state = rows.state_dict()
    before = {**state, "store": made.index.fingerprint_with_sizes}
    del before["layer"]
    resumed = StoredRows(made, None, batch_size=3, seed=1)
    resumed.load_state_dict(before)
    assert numbers(resumed, 3) == numbers(rows, 3)
    with pytest.raises(StoreError, match="another order of rows"):
        resumed.load_state_dict({**before, "store": "of another"})


@pytest.fixture
def only_new_objects() -> Iterator[None]:
    """The collector then looks at what the test makes, and not at all that was imported."""
    gc.freeze()
    yield
    gc.unfreeze()


def rows_in_memory() -> int:
    gc.collect()
    tensors = {o.data_ptr(): len(o) for o in gc.get_objects() if type(o) is torch.Tensor and o.shape[1:] == (WIDTH,)}
    return sum(tensors.values())


@pytest.mark.parametrize("window", [1, 2, 3])
def test_no_more_than_a_window_of_shards_is_in_memory(only_new_objects, tmp_path, monkeypatch, window):
    made = store_of(tmp_path, [100] * 6)
    read, in_memory, real = [], [], made.read_shard

    def spy(number: int, product: Any) -> dict[str, torch.Tensor]:
        in_memory.append(rows_in_memory())
        read.append(number)
        return real(number, product)

    monkeypatch.setattr(made, "read_shard", spy)
    rows = StoredRows(made, None, batch_size=10, window=window)
    for _ in range(12):
        for _ in range(10):
            next(rows)
        assert rows_in_memory() <= 100 * window
    assert max(in_memory) <= 100 * (window - 1)  # beside the one that is read then
    assert sorted(read[:6]) == sorted(read[6:]) == list(range(6))  # each once an epoch


def test_a_window_is_in_memory_once_also_while_it_is_read(only_new_objects, tmp_path, monkeypatch):
    rows, in_memory, real = StoredRows(store_of(tmp_path, [100] * 6), None, batch_size=10, window=3), [], torch.randperm

    def spy(*args: Any, **options: Any) -> torch.Tensor:
        in_memory.append(rows_in_memory())
        return real(*args, **options)

    monkeypatch.setattr(torch, "randperm", spy)
    next(rows)
    assert max(in_memory) <= 300


@pytest.mark.exact("copies of the same numbers")
@pytest.mark.parametrize("n_probes", [1, 2])
def test_rows_bring_what_the_store_holds_of_them(tmp_path, n_probes):
    config = {"estimator": "secant", "probe": "gaussian", "n_probes": n_probes, "radius": 0.2}
    made = store_of(tmp_path, [5, 4, 6], [{}, config, {"estimator": "vjp"}])
    shards = [made.read_shard(number, made.product(config)) for number in range(3)]
    stored = {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}
    rows = StoredRows(made, config, batch_size=8, window=2)
    for batch in islice(rows, 6):
        x, y, v, Jv, step, *_ = rows.layer.unpack(batch)
        assert v is not None
        assert Jv is not None
        order = x[:, 0].long()
        assert torch.equal(x, stored["x"][order])
        assert torch.equal(y, stored["y"][order])
        assert torch.equal(v.movedim(0, 1), stored["v"][order])
        assert torch.equal(Jv.movedim(0, 1), stored["Jv"][order])
        assert step == pytest.approx(0.2 * shards[0]["x"].square().mean().sqrt().item())
    assert StoredRows(made, {"estimator": "vjp"}, batch_size=8).layer.widths == [WIDTH, 3, 3, WIDTH]


def test_rows_are_their_own_iterator(tmp_path):
    rows = StoredRows(store_of(tmp_path, [4]), None, batch_size=2)
    assert iter(rows) is rows
    assert rows.batch == 0
    next(rows)
    assert rows.state_dict()["batch"] == 1


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"batch_size": 0}, "has 9 rows; choose 1 to 9"),
    ({"batch_size": 10}, "batch_size=10: .* has 9 rows"),
    ({"batch_size": 2, "processes": 3}, "3 processes share batches of 2 rows: start fewer"),
    ({"batch_size": 4, "processes": 3}, "batch_size=4 is no multiple of the 3 processes"),
    ({"batch_size": 4, "window": 0}, "window=0"),
    ({"batch_size": 4, "product": {"probe": "sphere"}}, "keeps no derivatives for jvp sphere, but for jvp pair"),
    ({"batch_size": 4, "product": {"n_probes": 2}}, "keeps no derivatives for jvp pair x 2"),
    ({"batch_size": 4, "product": {"jitter": 0.1}}, "leave jitter out"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_a_store_cannot_serve_is_refused(tmp_path, options, message):
    made = store_of(tmp_path, [5, 4], [{}])
    with pytest.raises(StoreError, match=message):
        StoredRows(made, **{"product": None, **options})


def test_a_rank_beyond_the_processes_is_refused(tmp_path):
    with pytest.raises(StoreError):
        StoredRows(store_of(tmp_path, [8]), None, batch_size=4, rank=2, processes=2)


def test_a_store_that_is_not_full_is_refused(tmp_path):
    made = DerivativeStore.create(tmp_path, source={}, d_in=2, d_out=2, products=[], n_shards=2)
    with made.writing():
        made.fill_shard(0, torch.ones(4, 2), torch.abs)
    with pytest.raises(StoreError, match=r"is not full \(1 of 2 shards\): fill it first"):
        StoredRows(made, None, batch_size=2)


@pytest.mark.parametrize("damage", [os.unlink, lambda path: os.truncate(path, 50)], ids=["missing", "truncated"])
def test_damage_that_is_found_while_reading_names_the_shard(tmp_path, damage):
    made = store_of(tmp_path, [4, 4, 4])
    rows = StoredRows(made, None, batch_size=4, window=1)
    served = int(next(rows)[0, 0]) // 4
    broken = (served + 1) % 3
    damage(tmp_path / made.index.shards[broken].file)
    with pytest.raises(StoreError, match=f"shard {broken} cannot be trained on: .* Fill the store again"):
        list(islice(rows, 2))
