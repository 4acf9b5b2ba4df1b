from pathlib import Path
from typing import Any

import pytest
import torch

from faithfulness_plugin.differences import differences, with_size
from faithfulness_plugin.store import DerivativeStore, StoreError

SETTINGS: dict[str, Any] = {
    "source": {"model": "tiny", "layer": "1", "text": "speeches"},
    "d_in": 5,
    "d_out": 4,
    "products": [{}],
    "n_shards": 2,
    "dtype": "float32",
    "seed": 0,
}
CHANGED: list[tuple[dict[str, Any], str]] = [
    ({"source": {**SETTINGS["source"], "model": "other"}}, "model tiny, not other"),
    ({"source": {**SETTINGS["source"], "layer": "2"}}, "layer 1, not 2"),
    ({"source": {**SETTINGS["source"], "text": "tales"}}, "text speeches, not tales"),
    ({"source": {**SETTINGS["source"], "more": "said"}}, "more None, not said"),
    ({"dtype": "bfloat16"}, "dtype float32, not bfloat16"),
    ({"d_in": 6}, "d_in 5, not 6"),
    ({"d_out": 5}, "d_out 4, not 5"),
    ({"n_shards": 3}, "n_shards 2, not 3"),
    ({"seed": 1}, "seed 0, not 1"),
    ({"products": [{"probe": "sphere"}]}, "derivatives jvp pair, and not jvp sphere"),
]


def new(folder: Path, **options: Any) -> DerivativeStore:
    return DerivativeStore.create(folder, **{**SETTINGS, **options})


@pytest.mark.parametrize(("changed", "message"), CHANGED, ids=[message for _, message in CHANGED])
def test_a_store_of_something_else_is_named_by_what_differs(tmp_path, changed, message):
    new(tmp_path)
    with pytest.raises(StoreError, match=rf"is a store of something else \({message}\)"):
        new(tmp_path, **changed)
    assert new(tmp_path).index == new(tmp_path / "another").index


def test_what_the_loss_and_the_student_decide_makes_no_other_store(tmp_path):
    new(tmp_path)
    new(tmp_path, products=[{"normalize": False, "seed": 3, "gate_bandwidth": 0.1, "radius": 2.0}, {}])


@pytest.mark.parametrize("name", ["dtype", "seed"])
def test_a_source_named_as_a_setting_counts_as_well(tmp_path, name):
    new(tmp_path, source={name: "a"})
    with pytest.raises(StoreError, match="something else"):
        new(tmp_path, source={name: "b"})


def test_a_source_that_says_less_is_another(tmp_path):
    new(tmp_path)
    with pytest.raises(StoreError, match="something else"):
        new(tmp_path, source={"model": "tiny"})


def test_a_layer_whose_size_another_processor_rounds_differently_is_the_same_layer(tmp_path):
    def source(size: float) -> dict[str, str]:
        return {"model": "tiny", "layer": with_size("a to b", size)}

    made = new(tmp_path, source=source(1.23449))
    assert new(tmp_path, source=source(1.23451)).index == made.index
    made.require(**source(1.23451))
    again, other = (new(tmp_path / str(size), source=source(size)).index for size in (1.23451, 1.3))
    assert again.fingerprint == made.index.fingerprint
    assert again.sized == {"layer": "a to b, size 1.235"}
    with pytest.raises(StoreError, match=r"something else \(layer a to b, size 1.234, not a to b, size 1.3\)"):
        new(tmp_path, source=source(1.3))
    assert differences(made.index.sized, other.sized)


def test_what_a_store_was_made_from_can_be_required(tmp_path):
    made = new(tmp_path)
    made.require(model="tiny", text="speeches")
    with pytest.raises(StoreError, match=r"made from something else \(layer 1, not 0\)"):
        made.require(model="tiny", layer="0")


def test_a_folder_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"is not empty and holds no index\.json"):
        new(tmp_path)
    with pytest.raises(StoreError, match=r"holds no index\.json, so it is not a store"):
        DerivativeStore.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(StoreError, match="is not empty"):
        new(tmp_path / "thesis.txt")
    with pytest.raises(StoreError, match="cannot be written"):
        new(tmp_path / "thesis.txt" / "below")


def test_an_index_that_is_a_folder_cannot_be_read(tmp_path):
    (tmp_path / "index.json").mkdir()
    with pytest.raises(StoreError, match="cannot be read"):
        DerivativeStore.open(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"products": [{"jitter": 0.1}]}, "leave jitter out"),
        ({"products": [{"estimator": "exact"}]}, 'keep "jvp"'),
        ({"dtype": "int8"}, "choose from float32, bfloat16, float16, float64"),
        ({"n_shards": 0}, "one shard or more"),
    ],
)
def test_settings_that_cannot_be(tmp_path, options, message):
    with pytest.raises(StoreError, match=message):
        new(tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()


def unusable(mlp: torch.nn.Module) -> dict[str, tuple[torch.Tensor, Any, dict[str, Any], str]]:
    x = torch.randn(6, 5, dtype=torch.float64)
    broken = x.clone()
    broken[2, 3] = torch.nan
    half: dict[str, Any] = {"dtype": "float16"}
    return {
        "NaN rows": (broken, mlp, {}, r"shard 0: NaN or Inf in x \(as float32\)"),
        "a layer that gives Inf": (x, lambda rows: mlp(rows) / 0, {}, "NaN or Inf in y"),
        "an output too large": (x, lambda rows: mlp(rows) + 1e5, half, r"NaN or Inf in y \(as float16\)"),
        "a product too large": (
            x,
            lambda rows: 1e6 * (mlp(rows) - mlp(rows).detach()),
            half,
            r"NaN or Inf in jvp.pair.1 \(as float16\)",
        ),
        "another d_out": (x, lambda rows: mlp(rows)[:, :3], {}, r"puts out shape \[6, 3\], not \[6, 4\]"),
        "another d_in": (x[:, :4], mlp, {}, r"rows of shape \[6, 4\]; pass two or more, 5 wide"),
        "one row": (x[:1], mlp, {}, "pass two or more"),
        "no rows": (x[:0], mlp, {}, "pass two or more"),
    }


@pytest.mark.parametrize("name", unusable(torch.nn.Identity()))
def test_rows_that_cannot_be_kept_leave_the_store_as_it_was(as_installed, tmp_path, mlp, name):
    x, layer, options, message = unusable(mlp)[name]
    made = new(tmp_path, **options)
    before = made.index
    with made.writing(), pytest.raises(StoreError, match=message):
        made.fill_shard(0, x, layer)
    assert made.index == before == DerivativeStore.open(tmp_path).index
    assert not list(tmp_path.glob("rows-*"))


def test_the_first_shard_comes_first(tmp_path, mlp):
    made, x = new(tmp_path), torch.randn(6, 5, dtype=torch.float64)
    with made.writing():
        with pytest.raises(StoreError, match="shard 0 comes first"):
            made.fill_shard(1, x, mlp)
        made.fill_shard(0, x, mlp)
        made.fill_shard(1, x, mlp)
    assert made.missing() == []


@pytest.mark.parametrize("number", [-1, 2])
def test_a_shard_that_the_store_has_no_place_for(tmp_path, mlp, number):
    made, x = new(tmp_path), torch.randn(6, 5, dtype=torch.float64)
    with made.writing():
        made.fill_shard(0, x, mlp)
        with pytest.raises(StoreError):
            made.fill_shard(number, x, mlp)


def test_a_shard_that_was_never_filled_is_not_read(tmp_path):
    with pytest.raises(StoreError, match="shard 1 cannot be trained on: it was not filled yet"):
        new(tmp_path).read_shard(1, None)


def test_a_store_that_keeps_more_than_is_wanted_will_do(tmp_path):
    made = new(tmp_path)
    assert new(tmp_path, products=[]).index == made.index
