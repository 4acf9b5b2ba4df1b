"""`faithfulness inspect` of sets, and of features that are changed, as users have them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny_hub
import torch
from command_line import fails
from oracles import random_transcoder
from packing_twin import unpacked
from typer.testing import CliRunner

from faithfulness_plugin.cli.app import app

pytestmark = pytest.mark.usefixtures("as_installed")
N = 24


def inspect(*args: str) -> Any:
    return CliRunner().invoke(app, ["inspect", *args])


def payload_of(page: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return unpacked(page.read_text(encoding="utf-8").split('id="payload">')[1].split("<")[0])


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    """A model, a text, a set of its two layers with and without a skip connection, and a folder with both."""
    folder = tmp_path_factory.mktemp("hub")
    tiny_hub.write_hub(folder)
    torch.manual_seed(0)
    for arm in ("plain", "skip"):
        for block in range(tiny_hub.N_BLOCKS):
            fields = {"d_in": tiny_hub.D_MODEL, "d_out": tiny_hub.D_MODEL, "d_sae": N, "dtype": "float32"}
            transcoder = random_transcoder("standard", skip=arm == "skip", **fields)
            with torch.no_grad():
                transcoder.b_enc[0] = -1e3  # never fires
            transcoder.cfg.metadata.hook_name = f"blocks.{block}.mlp.hook_in"
            transcoder.save_inference_model(folder / "arms" / f"block{block}_{arm}")
            if arm == "plain":
                transcoder.save_inference_model(folder / "set" / f"block{block}_{arm}")
    return folder


def of_model(hub: Path, *more: str) -> list[str]:
    model, text = str(hub / "model"), str(hub / "text")
    return ["--model", model, "--text", text, "--tokens", "300", "--context-size", "16", *more]


def test_a_set_on_one_page_with_edges_changed_features_records_and_exports(hub, tmp_path):
    out, records, features = tmp_path / "page.html", tmp_path / "records.jsonl", tmp_path / "features"
    written = ["--out", str(out), "--records", str(records), "--circuit-tracer", str(features)]
    done = inspect(str(hub / "set"), *of_model(hub, *written, "--intervene", "0, 3,3", "--delphi", str(tmp_path / "d")))
    assert done.exit_code == 0, done.output
    meta, arrays = payload_of(out)
    assert meta["set"]
    assert [t["name"] for t in meta["transcoders"]] == ["block 0", "block 1"]
    assert meta["layer"].endswith("model")
    assert (arrays["0.up.places"] == 65535).all()
    assert (arrays["1.up.places"][1:, 0] == 0).any()
    assert (arrays["0.down.places"][1:, 0] == 1).any()
    assert "from.partners" in {name.removeprefix("1.") for name in arrays}
    assert arrays["1.intervened.features"].tolist() == [0, 3]
    assert arrays["1.intervened.prompts"].tolist()[0] == 0
    assert meta["transcoders"][0]["stages"] == ["0", "1"]
    assert meta["transcoders"][1]["stages"] == ["1"]
    assert sorted(pd.read_json(records, lines=True)["transcoder"].unique()) == ["block 0", "block 1"]
    assert {path.name for path in (features / "set").iterdir()} == {"index.json.gz", "layer_0.bin", "layer_1.bin"}
    assert {path.name for path in (tmp_path / "d").iterdir()} == {"block0_plain", "block1_plain"}
    assert "| block 1 | " in done.stdout


def test_one_of_several_sets_is_chosen_by_name(hub, tmp_path):
    out = ["--out", str(tmp_path / "page.html")]
    fails(inspect(str(hub / "arms"), *of_model(hub, *out)), 2, "holds the sets plain, skip: choose one, such as --set")
    fails(inspect(str(hub / "arms"), "--set", "none", *of_model(hub, *out)), 2, "--set none: ")
    done = inspect(str(hub / "arms"), "--set", "skip", "--blocks", "0-1", *of_model(hub, *out))
    assert done.exit_code == 0, done.output
    meta, _ = payload_of(tmp_path / "page.html")
    assert all(t["skip"] for t in meta["transcoders"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{hub}/set", "--blocks", "0,7"], "--blocks: the set has no transcoder of block 7: choose from blocks 0-1"),
        (["{hub}/set", "--blocks", "1"], "two layers or more"),
        (["{hub}/set", "--blocks", "x"], "names no blocks"),
        (["{hub}/set", "--compare", "other={hub}/arms"], "--compare is for two transcoders of one layer"),
        (["{hub}/set", "--hook-in", "blocks.0.mlp.hook_in"], "--hook-in is for transcoders of one layer"),
        (["{hub}/set/block0_plain", "--set", "plain"], "--set and --blocks are for a set"),
        (["{hub}/set/block0_plain", "--intervene", "first"], "write the numbers of features, as in 14,255, or top"),
        (
            ["{hub}/set/block0_plain", "--intervene", "3,24"],
            "--intervene 3,24: block0_plain has no feature 24: pass numbers from 0 to 23, or top",
        ),
        (["{hub}/set/block0_plain", "--intervene", "1", "--layer", "abs"], "--intervene 1: features are changed"),
    ],
)
def test_what_makes_no_sense_is_told_in_a_line_and_writes_nothing(hub, tmp_path, arguments, message):
    given = [a.format(hub=hub) for a in arguments]
    layer = [] if "abs" in given else of_model(hub)
    done = inspect(*given, *layer, "--out", str(tmp_path / "page.html"))
    assert done.exit_code == 2, done.output
    (told,) = [line for line in done.stderr.splitlines() if "error: " in line]
    assert message in told
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_the_table_are_changed_of_one_transcoder(hub, tmp_path):
    out = tmp_path / "page.html"
    done = inspect(str(hub / "set" / "block0_plain"), *of_model(hub, "--intervene", "top", "--out", str(out)))
    assert done.exit_code == 0, done.output
    meta, arrays = payload_of(out)
    found = arrays["0.intervened.features"]
    assert len(found) == min(20, int((arrays["0.firing_rate"] > 0).sum()))
    assert 0 not in found
    assert (np.diff(arrays["0.unbacked"][found]) <= 0).all()
    assert not meta["set"]
    assert (arrays["0.intervened.kl"] > 0).any()
    assert arrays["0.intervened.error"][..., 0] == pytest.approx(0, abs=1e-6)  # both streams change alike there
