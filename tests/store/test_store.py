import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import central_difference, jacobian_by_rows
from safetensors import SafetensorError

from faithfulness_plugin.jacobian.estimators.secant import layer_secant
from faithfulness_plugin.jacobian.probes import ISOTROPIC, PROBES
from faithfulness_plugin.layers.derivatives import layer_jvp, layer_vjp
from faithfulness_plugin.store import DerivativeStore, StoreError, layer_tensors, store
from faithfulness_plugin.store import shard_file as file_of_shard
from faithfulness_plugin.store.index import DTYPES, Product

PRODUCTS: list[dict[str, Any]] = [
    {"estimator": estimator, "probe": probe, "n_probes": n}
    for estimator in ("jvp", "vjp", "secant")
    for probe in (ISOTROPIC if estimator == "vjp" else PROBES)
    for n in (1, 2)
] + [{"estimator": "secant", "probe": probe, "central": True, "radius": 0.1} for probe in ("gaussian", "pair")]
SOURCE = {"model": "tiny", "layer": "1", "text": "speeches"}


def new(folder: Path, **options: Any) -> DerivativeStore:
    given_or = {"source": SOURCE, "d_in": 5, "d_out": 4, "products": [{}], "n_shards": 3, "dtype": "float64", **options}
    return DerivativeStore.create(folder, **given_or)


def rows(number: int) -> torch.Tensor:
    return (number + 1) * torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(number))


def filled(folder: Path, layer: Callable, **options: Any) -> DerivativeStore:
    made = new(folder, **options)
    with made.writing():
        for number in made.missing():
            made.fill_shard(number, rows(number), layer)
    return made


def shard_file(folder: Path, number: int = 1) -> Path:
    return folder / f"rows-{number:05}.safetensors"


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("rows-*")}


@pytest.mark.exact("copies of the same numbers")
@pytest.mark.parametrize("config", PRODUCTS, ids=lambda config: str(Product.of(config)))
def test_what_is_read_back_is_what_the_layer_says_at_these_rows(tmp_path, mlp, config):
    made = filled(tmp_path / "store", mlp, products=[config])
    product, rms = made.product(config), rows(0).square().mean().sqrt().item()
    for number in range(3):
        read = DerivativeStore.open(tmp_path / "store").read_shard(number, product)
        x, v, Jv = read["x"], read["v"].movedim(1, 0), read["Jv"].movedim(1, 0)
        assert torch.equal(x, rows(number))
        torch.testing.assert_close(read["y"], mlp(x).detach())
        J = torch.stack([jacobian_by_rows(mlp, row) for row in x])
        if config["estimator"] == "secant":  # an isotropic step is in units of the first shard's rows, everywhere
            step = config.get("radius", 0.5) * (rms if config["probe"] in ISOTROPIC else 1)
            fresh = layer_secant(mlp, x, v, step, central=config.get("central", False))[1]
            after = [mlp(x + step * probe).detach() for probe in v]
            before = [mlp(x - step * probe).detach() if config.get("central") else read["y"] for probe in v]
            width = 2 * step if config.get("central") else step
            brute = torch.stack([(b - a) / width for a, b in zip(before, after, strict=True)])
        elif config["estimator"] == "vjp":
            fresh, brute = layer_vjp(mlp, x, v)[1], torch.einsum("noi,pno->pni", J, v)
        else:
            fresh, brute = layer_jvp(mlp, x, v)[1], torch.einsum("noi,pni->pno", J, v)
            torch.testing.assert_close(Jv[0], central_difference(mlp, x, v[0]), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(Jv, fresh, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(Jv, brute)


@pytest.mark.bitwise("the same weights and the same rows in one process round alike")
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_dtype_keeps_the_same_numbers_rounded(tmp_path, mlp, dtype):
    wide = filled(tmp_path / "wide", mlp, products=PRODUCTS)
    narrow = filled(tmp_path / "narrow", mlp, products=PRODUCTS, dtype=dtype)
    for product in wide.index.products:
        exact, read = wide.read_shard(1, product), narrow.read_shard(1, product)
        assert all(torch.equal(read[name], exact[name].to(DTYPES[dtype])) for name in ("x", "y", "v", "Jv"))


@pytest.mark.exact("copies of the same numbers")
def test_products_along_the_same_probes_share_them(tmp_path, mlp):
    made = filled(tmp_path / "store", mlp, products=PRODUCTS)
    jvp, secant, vjp = (made.product({"estimator": e, "probe": "gaussian"}) for e in ("jvp", "secant", "vjp"))
    assert torch.equal(made.read_shard(0, jvp)["v"], made.read_shard(0, secant)["v"])
    assert made.read_shard(0, vjp)["v"].shape != made.read_shard(0, jvp)["v"].shape
    assert made.read_shard(0, None).keys() == {"x", "y"}


@pytest.mark.exact("draws from generators in one state")
def test_probes_differ_between_shards_and_between_seeds(tmp_path, mlp):
    product = Product.of({"probe": "gaussian"})
    first, other = (filled(tmp_path / str(s), mlp, products=[{"probe": "gaussian"}], seed=s) for s in (0, 1))
    v = [first.read_shard(0, product)["v"], first.read_shard(1, product)["v"], other.read_shard(0, product)["v"]]
    assert not torch.equal(v[0], v[1])
    assert not torch.equal(v[0], v[2])


def test_it_makes_no_difference_how_many_rows_the_layer_is_asked_about_at_a_time(tmp_path, mlp, monkeypatch):
    whole = filled(tmp_path / "whole", mlp, products=PRODUCTS)
    monkeypatch.setattr(layer_tensors, "CHUNK", 4)
    chunked = filled(tmp_path / "chunked", mlp, products=PRODUCTS)
    for product in whole.index.products:
        torch.testing.assert_close(chunked.read_shard(2, product), whole.read_shard(2, product))


@pytest.mark.exact("copies of the same numbers")
def test_a_store_can_keep_no_derivatives_at_all(tmp_path, mlp):
    made = filled(tmp_path / "store", mlp, products=[])
    assert torch.equal(made.read_shard(1, None)["x"], rows(1))
    with pytest.raises(StoreError, match="keeps no derivatives for jvp pair, but for none"):
        made.product({})


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "flipped": (flip_a_byte, "is not what was written"),
    "truncated": (lambda path: os.truncate(path, 100), "has 100 bytes"),
    "emptied": (lambda path: os.truncate(path, 0), "has 0 bytes"),
    "missing": (lambda path: path.unlink(), "cannot be read"),
    "another's": (lambda path: shutil.copy(shard_file(path.parent, 2), path), "is not what was written"),
}


@pytest.mark.bitwise("the same weights and the same rows in one process round alike")
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found_named_never_read_and_healed_alone(tmp_path, mlp, kind):
    damage, message = DAMAGE[kind]
    filled(tmp_path, mlp)
    before = contents(tmp_path)
    damage(shard_file(tmp_path))
    found = DerivativeStore.open(tmp_path)
    with pytest.raises(StoreError, match=rf"shard 1 cannot be trained on: rows-00001\.safetensors {message}"):
        found.read_shard(1, None)
    assert found.missing() == [1]
    asked = []
    filled(tmp_path, lambda x: asked.append(len(x)) or mlp(x))
    after = contents(tmp_path)
    assert {name: data for name, (data, _) in after.items()} == {name: data for name, (data, _) in before.items()}
    assert [name for name in after if after[name] != before[name]] in ([], ["rows-00001.safetensors"])
    assert set(asked) == {6}
    assert DerivativeStore.open(tmp_path).missing() == []


def test_a_file_that_changes_after_it_was_checked_is_checked_again(tmp_path, mlp):
    made, file = filled(tmp_path, mlp), shard_file(tmp_path)
    assert made.missing() == []
    flip_a_byte(file)
    os.utime(file, (1, 1))  # clocks of file systems are coarse
    assert made.missing() == [1]


@given(data=st.data())
def test_a_torn_index_is_named(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("torn")
    made = new(folder)
    with made.writing():
        made.fill_shard(0, rows(0), torch.nn.Linear(5, 4).double())
    whole = (folder / "index.json").read_text()
    (folder / "index.json").write_text(whole[: data.draw(st.integers(0, len(whole) - 1))])
    for use in (DerivativeStore.open, new):
        with pytest.raises(StoreError, match=r"index\.json is corrupt, or of another version"):
            use(folder)


def test_an_index_of_another_version_is_refused(tmp_path):
    new(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    estimators = [[{**index["products"][0], "estimator": name}] for name in ("surprise", "exact")]
    for changed in ({"format_version": 2}, {"more": 1}, *({"products": products} for products in estimators)):
        (tmp_path / "index.json").write_text(json.dumps(index | changed))
        with pytest.raises(StoreError, match=f"of another version \\({next(iter(changed))}"):
            DerivativeStore.open(tmp_path)


def test_two_writers_are_one_too_many(tmp_path, mlp):
    made = filled(tmp_path, mlp)
    second = DerivativeStore.open(tmp_path).writing()
    with made.writing(), pytest.raises(StoreError, match="is being written by another process"), second:
        raise AssertionError("unreachable")
    with DerivativeStore.open(tmp_path).writing():
        pass  # free again


def test_a_writer_sees_what_another_did_meanwhile(tmp_path, mlp):
    one, other = new(tmp_path), new(tmp_path)
    with one.writing():
        one.fill_shard(0, rows(0), mlp)
    with other.writing():
        assert other.missing() == [1, 2]
        other.fill_shard(1, rows(1), mlp)
    assert DerivativeStore.open(tmp_path).missing() == [2]


KILLED = """
import sys, torch
from faithfulness_plugin.store import DerivativeStore, shard_file
def hang(tensors, path):
    path.write_bytes(b"half")
    print("writing", flush=True)
    sys.stdin.read()
shard_file.save_file = hang
made = DerivativeStore.open(sys.argv[1])
with made.writing():
    made.fill_shard(1, torch.ones(3, 5).double(), torch.nn.Linear(5, 4).double())
"""


def test_a_writer_in_another_process_is_respected_and_killed_leaves_nothing_behind(tmp_path, mlp):
    made = new(tmp_path)
    with made.writing():
        made.fill_shard(0, rows(0), mlp)
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "writing\n"
        with pytest.raises(StoreError, match="wait for it, or stop it"), made.writing():
            raise AssertionError("unreachable")
        child.kill()
        child.wait()
    assert list(tmp_path.glob(".unfinished.*"))
    assert made.missing() == [1, 2]
    filled(tmp_path, mlp)
    assert not list(tmp_path.glob(".unfinished.*"))
    assert DerivativeStore.open(tmp_path).missing() == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full: .* MB are free"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
    ],
    ids=["full", "full for safetensors", "broken"],
)
def test_a_disk_that_takes_no_more_keeps_what_is_filled_and_no_half_file(tmp_path, mlp, monkeypatch, error, message):
    def save_half(tensors: dict[str, torch.Tensor], path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    made = new(tmp_path)
    with made.writing():
        made.fill_shard(0, rows(0), mlp)
        before = contents(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(file_of_shard, "save_file", save_half)
            with pytest.raises(StoreError, match=f"shard 1 could not be .*{message}"):
                made.fill_shard(1, rows(1), mlp)
    assert {path.name for path in tmp_path.iterdir()} == {".writer.lock", "index.json", "rows-00000.safetensors"}
    assert contents(tmp_path) == before
    assert made.missing() == DerivativeStore.open(tmp_path).missing() == [1, 2]
    assert filled(tmp_path, mlp).missing() == []  # called again, with room


def test_a_limit_on_file_sizes_is_as_a_full_disk(tmp_path, mlp):
    resource = pytest.importorskip("resource")
    made, limits = new(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    with made.writing():
        made.fill_shard(0, rows(0), mlp)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**15, limits[1]))
        try:
            with pytest.raises(StoreError, match=r"could not be written .*File too large"):
                made.fill_shard(1, torch.randn(2000, 5, dtype=torch.float64), mlp)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name for path in tmp_path.iterdir()} == {".writer.lock", "index.json", "rows-00000.safetensors"}
    assert DerivativeStore.open(tmp_path).missing() == [1, 2]


@pytest.mark.bitwise("the same weights and the same rows in one process round alike")
def test_an_index_that_cannot_be_written_leaves_the_shard_for_the_next_time(tmp_path, mlp, monkeypatch):
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    made = filled(tmp_path, mlp, n_shards=1)
    shard_file(tmp_path, 0).unlink()
    monkeypatch.setattr(store, "write_text", full)
    with made.writing(), pytest.raises(StoreError, match="No space left on device"):
        made.fill_shard(0, rows(0), mlp)
    assert DerivativeStore.open(tmp_path).missing() == []  # the same again, so the index that stands is right
