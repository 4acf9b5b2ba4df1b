"""Stores of rows x and f(x) beside the layer's weights: what is kept, checked and refused."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import GatedMlp, ThenNorm
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from faithfulness_plugin.layers.derivatives import layer_jvp
from faithfulness_plugin.layers.mlp_weights import checked_mlp_weights
from faithfulness_plugin.store import DerivativeStore, StoredRows, StoreError
from faithfulness_plugin.store.index import Index


def sequential(act: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 12), act or nn.GELU(approximate="tanh"), nn.Linear(12, 4))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "Sequential": sequential,
    "gated": lambda: GatedMlp(5, 7, 4),
    "norm after it": lambda: ThenNorm(GatedMlp(5, 7, 4), nn.LayerNorm(4, eps=1e-3)),
}
ACTIVATION = {"Sequential": "gelu_tanh", "gated": "silu", "norm after it": "silu"}


def rows(number: int, n: int = 40, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, 5, dtype=dtype, generator=torch.Generator().manual_seed(number))


def new(folder: Path, **options: Any) -> DerivativeStore:
    settings = {"d_in": 5, "d_out": 4, "products": [], "n_shards": 3, "dtype": "float64", "weights": True}
    return DerivativeStore.create(folder, source={"layer": "1"}, **{**settings, **options})


def filled(folder: Path, layer: Callable[[Tensor], Tensor], **options: Any) -> DerivativeStore:
    made = new(folder, **options)
    dtype = next(layer.parameters()).dtype if isinstance(layer, nn.Module) else torch.float64
    with made.writing():
        for number in made.missing():
            made.fill_shard(number, rows(number, dtype=dtype), layer)
    return made


def weights_file(folder: Path) -> Path:
    return folder / "layer.safetensors"


@pytest.mark.parametrize("name", LAYERS)
def test_the_kept_layer_is_the_layer(tmp_path, name):
    layer, x = LAYERS[name]().double(), rows(9)
    filled(tmp_path, layer)
    found = DerivativeStore.open(tmp_path)
    entry = found.index.layer
    assert entry is not None
    assert entry.activation == ACTIVATION[name]
    kept = found.layer()
    torch.testing.assert_close(kept(x), layer(x).detach(), rtol=0, atol=1e-12)
    assert kept.exact
    weights = checked_mlp_weights(kept, x)
    assert weights is not None
    assert weights is kept.weights
    v = torch.randn_like(x)
    torch.testing.assert_close(weights.jacobian(x).jvp(v), layer_jvp(layer, x, v)[1], rtol=0, atol=1e-12)


def test_files_are_at_most_half_of_those_with_derivatives(tmp_path):
    layer = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
    made, x = {}, torch.randn(2000, 16)
    kinds: dict[str, dict[str, Any]] = {
        "derivatives": {"products": [{}], "weights": False},
        "rows": {},
        "bfloat16": {"dtype": "bfloat16"},
        "float16": {"dtype": "float16"},
    }
    for kind, options in kinds.items():
        store = new(tmp_path / kind, **{"d_in": 16, "d_out": 16, "n_shards": 1, "dtype": "float32", **options})
        with store.writing():
            store.fill_shard(0, x, layer)
        sizes = [path.stat().st_size for path in (tmp_path / kind).glob("*.safetensors")]
        made[kind] = (sum(sizes), max(sizes), store.index.row_bytes)
    whole = made["derivatives"][0]
    assert made["rows"][1] <= whole / 2  # the rows
    assert max(made["bfloat16"][1], made["float16"][1]) <= 1.001 * whole / 4  # and a header
    assert max(made["bfloat16"][0], made["float16"][0]) < whole / 3 < made["rows"][0] < 0.55 * whole  # and weights
    assert [of[2] for of in made.values()] == [256, 128, 64, 64]


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_what_the_dtype_does_to_rows_and_derivatives_is_measured(tmp_path, dtype):
    layer = sequential().double()
    made = filled(tmp_path, layer, dtype=dtype, n_shards=1)
    found = made.index.rounding
    assert found is not None
    read = {name: part.double() for name, part in made.read_shard(0, None).items()}
    x, y = rows(0), layer(rows(0)).detach()
    for ours, error, exact in (("x", found.x, x), ("y", found.y, y)):
        assert error == pytest.approx(((read[ours] - exact).norm() / exact.norm()).item(), rel=1e-6, abs=1e-15)
    eps = torch.finfo(getattr(torch, dtype)).eps
    if dtype == "float64":
        assert (found.x, found.y, found.Jv) == (0, 0, 0)
    else:
        assert all(0.1 * eps < error < 2 * eps for error in (found.x, found.y, found.Jv))
        assert f"rounding=RoundingError(rows=40, x={found.x:.4g}, y={found.y:.4g}, Jv=" in repr(made)
    assert made.layer().exact == (dtype == "float64")
    next(StoredRows(made, None, batch_size=4))  # rounded as they are, the weights reproduce them


def test_rows_of_a_model_in_half_precision_are_kept_as_they_are(tmp_path):
    made = filled(tmp_path, sequential().bfloat16(), dtype="bfloat16")
    assert made.layer().exact
    assert made.layer().dtype == torch.bfloat16
    assert made.index.rounding is not None
    assert made.index.rounding.Jv == 0
    assert filled(tmp_path / "wide", sequential().bfloat16(), dtype="float32").layer().exact
    rows_ = StoredRows(made, {"probe": "pair"}, batch_size=8)
    x, y, *_ = rows_.layer.unpack(next(rows_))
    assert (x.dtype, y.dtype) == (torch.bfloat16, torch.bfloat16)


def test_numbers_beyond_the_range_of_float16_are_refused_by_name(tmp_path):
    layer, made = sequential().double(), new(tmp_path, dtype="float16")
    x = rows(0)
    x[3, 2] = 1e5
    with made.writing():
        with pytest.raises(
            StoreError, match=r"in x \(as float16\): up to 1e\+05, where float16 ends at 6.55e\+04: use"
        ):
            made.fill_shard(0, x, layer)
        with pytest.raises(StoreError, match=r"in y \(as float16\): up to .*, such as bfloat16 with float32's range"):
            made.fill_shard(0, 1e4 * x.clamp(-4, 4), nn.Sequential(nn.Linear(5, 9), nn.ReLU(), _large()).double())
    assert not list(tmp_path.glob("*.safetensors"))
    filled(tmp_path / "wide", layer, dtype="bfloat16")


def _large() -> nn.Linear:
    linear = nn.Linear(9, 4)
    nn.init.constant_(linear.weight, 30)
    return linear


class SpecialFirstRow(GatedMlp):
    """Treats rows with a large first coordinate in a way of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.where(x[..., :1] > 50, 2.0, 1.0)


def one_special(number: int) -> Tensor:
    x = rows(number, 600)
    x[599 if number else 301, 0] = 60
    return x


@pytest.mark.parametrize(
    ("layer", "x", "message"),
    [
        (torch.sin, rows(0), r"the weights of a builtin.* are not known, or not all .*: keep its derivatives"),
        (nn.Sequential(nn.Linear(5, 4)).double(), rows(0), "the weights of a Sequential are not known"),
        (sequential(nn.PReLU()).double(), rows(0), "activation PReLU is none of those that a file can name .relu, "),
        (sequential(nn.LeakyReLU(0.3)).double(), rows(0), "activation LeakyReLU is none of .*keep its derivatives"),
        (
            SpecialFirstRow(5, 7, 4),
            one_special(0),
            "is not what its weights give: the weights that were found in a Spe",
        ),
    ],
)
def test_a_layer_whose_weights_are_not_all_is_refused_in_one_line(as_installed, tmp_path, layer, x, message):
    made = new(tmp_path, d_out=5 if layer is torch.sin else 4)
    with made.writing(), pytest.raises(StoreError, match=message) as refused:
        made.fill_shard(0, x, layer)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob("*.safetensors"))
    assert made.index == new(tmp_path, d_out=made.index.d_out).index


def test_a_layer_that_changes_while_a_store_is_filled_is_refused(tmp_path):
    layer, made = sequential().double(), new(tmp_path)
    with made.writing():
        made.fill_shard(0, rows(0), layer)
        with torch.no_grad():
            next(layer.parameters()).mul_(1.01)
        with pytest.raises(
            StoreError, match=r"shard 1 of .* is of another layer, or of one that treats some rows diff"
        ):
            made.fill_shard(1, rows(1), layer)
    assert made.missing() == [1, 2]


def test_a_row_that_is_treated_in_a_way_of_its_own_is_found_in_any_shard(tmp_path):
    layer, made = SpecialFirstRow(5, 7, 4).double(), new(tmp_path)
    with made.writing():
        made.fill_shard(0, rows(0), layer)
        with pytest.raises(StoreError, match="treats some rows differently"):
            made.fill_shard(1, one_special(1), layer)


def change_a_weight(path: Path) -> None:
    tensors = load_file(path)
    tensors["W_in"][0, 0] += 1
    save_file(tensors, path)
    os.utime(path, (1, 1))  # clocks of file systems are coarse


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "changed": (change_a_weight, "is not what was written"),
    "flipped": (flip_a_byte, "is not what was written"),
    "truncated": (lambda path: os.truncate(path, 100), "has 100 bytes"),
    "missing": (lambda path: path.unlink(), "cannot be read"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_weights_are_found_named_never_used_and_healed(tmp_path, kind):
    damage, message = DAMAGE[kind]
    layer = sequential().double()
    filled(tmp_path, layer)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    damage(weights_file(tmp_path))
    found = DerivativeStore.open(tmp_path)
    expected = rf"the layer cannot be used: layer\.safetensors {message}.* Fill the store again, which fixes it"
    for use in (lambda: StoredRows(found, {}, batch_size=4), found.layer):
        with pytest.raises(StoreError, match=expected) as refused:
            use()
        assert "\n" not in str(refused.value)
    assert found.missing() == [0]
    with found.writing(), pytest.raises(StoreError, match=r"shard 0 of .* comes first: the layer's weights"):
        found.fill_shard(1, rows(1), layer)
    filled(tmp_path, layer)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")} == before
    assert DerivativeStore.open(tmp_path).missing() == []


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_weights_of_another_layer_are_found_at_the_first_rows(tmp_path, dtype):
    ours, theirs = (filled(tmp_path / name, sequential().double(), dtype=dtype) for name in ("ours", "theirs"))
    shutil.copy(weights_file(theirs.folder), weights_file(ours.folder))
    index = json.loads((ours.folder / "index.json").read_text())
    index["layer"] = json.loads((theirs.folder / "index.json").read_text())["layer"]
    (ours.folder / "index.json").write_text(json.dumps(index))
    batches = StoredRows(DerivativeStore.open(ours.folder), None, batch_size=4)
    with pytest.raises(StoreError, match=r"f\(x\) is not what its weights give: .*ours holds another layer's: fill a"):
        next(batches)


def test_what_cannot_be_asked_of_a_store_is_said(tmp_path):
    with pytest.raises(StoreError, match="derivatives are computed from the weights, so leave products out"):
        new(tmp_path / "a", products=[{}])
    made = new(tmp_path / "a")
    with pytest.raises(StoreError, match="the layer cannot be used: the layer's weights were not kept yet"):
        made.layer()
    with pytest.raises(StoreError, match=r"is a store of something else \(weights True, not False\)"):
        new(tmp_path / "a", weights=False)
    plain = new(tmp_path / "b", weights=False)
    with pytest.raises(StoreError, match="keeps no weights of its layer: make a store with weights=True"):
        plain.layer()
    with pytest.raises(StoreError, match=r"something else \(weights False, not True\)"):
        new(tmp_path / "b")


def test_an_activation_of_a_later_version_is_refused(tmp_path):
    filled(tmp_path, sequential().double())
    index = json.loads((tmp_path / "index.json").read_text())
    index["layer"]["activation"] = "surprise"
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(StoreError, match=r"of another version \(layer.activation: .*surprise is not known here"):
        DerivativeStore.open(tmp_path)


WRITTEN_BEFORE = (
    '{"format_version":1,"source":{"model":"tiny","layer":"a to b, size 1.234"},"d_in":5,"d_out":4,"dtype":"float32",'
    '"products":[{"estimator":"secant","probe":"pair","n_probes":2,"radius":0.5,"central":false}],"seed":3,'
    '"n_shards":2,"rms":null,"shards":{}}'
)


def test_an_index_of_before_is_read_and_written_as_it_was():
    index = Index.model_validate_json(WRITTEN_BEFORE)
    assert (index.fingerprint, index.fingerprint_with_sizes) == ("a7da3327ad3b2b73", "00db568434819785")
    assert index.model_dump_json() == WRITTEN_BEFORE
    kept = index.model_copy(update={"weights": True})
    assert kept.fingerprint != index.fingerprint
