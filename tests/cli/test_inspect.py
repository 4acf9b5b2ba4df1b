"""The command `faithfulness inspect`, as users have it."""

import gzip
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny_hub
import torch
from command_line import fails
from oracles import exact_abs_transcoder, plant_datapoint_feature
from packing_twin import unpacked
from typer.testing import CliRunner

from faithfulness_plugin import AbsInputs, StandardTrainingTranscoder, StandardTrainingTranscoderConfig
from faithfulness_plugin.cli.app import app

pytestmark = pytest.mark.usefixtures("as_installed")


def inspect(*args: str) -> Any:
    return CliRunner().invoke(app, ["inspect", *args])


def payload_of(page) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return unpacked(page.read_text(encoding="utf-8").split('id="payload">')[1].split("<")[0])


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    for name in ("exact", "planted"):
        transcoder = exact_abs_transcoder(16, 40)
        if name == "planted":
            plant_datapoint_feature(transcoder, AbsInputs(16).point.double(), 35)
        transcoder.to(torch.float32)
        transcoder.cfg.dtype = "float32"
        transcoder.save_inference_model(folder / name)
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    tiny_hub.write_hub(folder)
    torch.manual_seed(0)
    transcoder = StandardTrainingTranscoder(StandardTrainingTranscoderConfig(d_in=tiny_hub.D_MODEL, d_sae=24))
    transcoder.save_inference_model(folder / "silent_about_its_layer")
    transcoder.cfg.metadata.hook_name = "blocks.1.mlp.hook_in"
    transcoder.save_inference_model(folder / "plain")
    transcoder.cfg.metadata.model_name = "EleutherAI/pythia-160m"
    transcoder.save_inference_model(folder / "of_another_model")
    transcoder.cfg.metadata.model_name = None
    with torch.no_grad():
        transcoder.b_enc.fill_(-1000)
    transcoder.save_inference_model(folder / "dead")
    return folder


def of_model(hub, *more: str) -> list[str]:
    return [
        "--model",
        str(hub / "model"),
        "--text",
        str(hub / "text"),
        "--tokens",
        "300",
        "--context-size",
        "16",
        *more,
    ]


@pytest.mark.bitwise("the same rows through the same transcoders in one process round alike")
def test_a_page_of_two_toy_transcoders_and_the_numbers_in_a_file(toys, tmp_path):
    out, records = tmp_path / "page.html", tmp_path / "records.parquet"
    arguments = [f"planted={toys / 'planted'}", "--compare", str(toys / "exact"), "--layer", "abs", "--tokens", "3000"]
    done = inspect(*arguments, "--out", str(out), "--records", str(records))
    assert done.exit_code == 0, done.output
    assert "| planted | " in done.stdout
    assert "| 1 | 35 (1.00) |" in done.stdout
    assert f"written: {out}, {records}" in done.stderr
    meta, arrays = payload_of(out)
    assert [t["name"] for t in meta["transcoders"]] == ["planted", "exact"]
    assert meta["rows"] == 3000
    table = pd.read_parquet(records)
    for n, name in enumerate(("planted", "exact")):
        of = table[table["transcoder"] == name]
        np.testing.assert_allclose(of["datapoint_score"], arrays[f"{n}.score"], atol=1e-6)
    before = out.read_bytes()
    again = inspect(*arguments, "--out", str(out))
    fails(again, 2, "is there already: choose another name, or pass --overwrite")
    assert out.read_bytes() == before
    assert inspect(*arguments, "--out", str(out), "--overwrite").exit_code == 0
    assert payload_of(out)[0] == meta


def test_a_page_of_a_language_models_layer(hub, tmp_path):
    out = tmp_path / "page.html"
    done = inspect(str(hub / "plain"), *of_model(hub, "--out", str(out)))
    assert done.exit_code == 0, done.output
    meta, arrays = payload_of(out)
    assert meta["layer"].endswith("blocks.1.mlp.hook_in to blocks.1.mlp.hook_out")
    assert {part.strip() for part in meta["vocabulary"]} <= {*tiny_hub.WORDS, tiny_hub.BOS}
    assert arrays["tokens"].shape == (20, 16)
    assert meta["rows"] == 300
    named = inspect(str(hub / "silent_about_its_layer"), "--layer", "1", *of_model(hub, "--out", str(tmp_path / "b")))
    assert named.exit_code == 0, named.output
    np.testing.assert_allclose(payload_of(tmp_path / "b")[1]["0.score"], arrays["0.score"], atol=1e-6)


def test_another_model_than_the_transcoders_is_refused_unless_confirmed(hub, tmp_path):
    out = tmp_path / "page.html"
    refused = inspect(str(hub / "of_another_model"), *of_model(hub, "--out", str(out)))
    fails(refused, 2, "is a transcoder of the model EleutherAI/pythia-160m, and --model is")
    assert not out.exists()
    done = inspect(str(hub / "of_another_model"), *of_model(hub, "--model-anyway", "--out", str(out)))
    assert done.exit_code == 0, done.output
    assert "(the transcoder names EleutherAI/pythia-160m)" in payload_of(out)[0]["layer"]
    fails(inspect(str(hub / "plain"), "--out", str(tmp_path / "b.html")), 2, "does not name its model")


def test_a_layer_of_ones_own_on_rows_of_a_file(toys, tmp_path, monkeypatch):
    (tmp_path / "my_layers.py").write_text("import torch\nlayer = torch.abs\n")
    np.save(tmp_path / "rows.npy", next(AbsInputs(16, 0.2, batch_size=500)).numpy())
    monkeypatch.chdir(tmp_path)
    done = inspect(str(toys / "exact"), "--layer", "my_layers:layer", "--rows", "rows.npy", "--out", "page.html")
    assert done.exit_code == 0, done.output
    meta, _ = payload_of(tmp_path / "page.html")
    assert (meta["layer"], meta["rows"]) == ("my_layers:layer", 500)
    fails(
        inspect(str(toys / "exact"), "--layer", "my_layers:layer", "--out", "b.html"),
        2,
        "--rows and a layer of your own",
    )
    missing = ["--layer", "my_layers:layer", "--rows", "no.npy", "--out", "b.html"]
    fails(inspect(str(toys / "exact"), *missing), 2, "--rows no.npy cannot be read")
    unknown = ["--layer", "my_layers:no", "--rows", "rows.npy", "--out", "b.html"]
    fails(inspect(str(toys / "exact"), *unknown), 2, "my_layers:no cannot be imported")
    assert not (tmp_path / "b.html").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{toys}/none"], 2, "does not exist"),
        (["{toys}"], 2, "is not a single transcoder, and holds exact, planted"),
        (["{toys}/exact", "--layer", "sinus"], 2, "--layer sinus: pass the number of a block, abs, or"),
        (["{toys}/exact", "--layer", "abs", "--memory", "0"], 2, "should be greater than"),
        (["{toys}/exact", "--layer", "abs", "--tokens", "0"], 2, "should be greater than"),
        (["{toys}/exact", "--layer", "abs", "--records", "records.csv"], 2, "that ends in .parquet or .jsonl"),
        (["{toys}/exact", "--layer", "abs", "--n-ones", "17"], 2, "n_ones=17"),
        (["{toys}/exact", "--layer", "abs", "--tokens", "1"], 2, "greater than or equal to 2"),
        (["{toys}/exact", "--layer", "abs", "--device", "cuda"], 2, "looked at on the CPU"),
        (["{toys}/exact", "--hook-in", "blocks.0.hook_in"], 2, "does not name its model"),
        (["{toys}/exact", "--layer", "abs", "--compare", "exact={toys}/planted"], 2, "there is a exact already"),
    ],
)
def test_bad_arguments_are_told_in_a_line_and_write_nothing(toys, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    fails(inspect(*[a.format(toys=toys) for a in arguments], "--out", "page.html"), code, message)
    assert list(tmp_path.iterdir()) == []


def test_layers_and_samples_that_do_not_fit_are_told_in_a_line(hub, toys, tmp_path):
    out = ["--out", str(tmp_path / "page.html")]
    silent = inspect(str(hub / "silent_about_its_layer"), *of_model(hub), *out)
    fails_after_notes(silent, 2, "which layer do the transcoders replace? Their metadata say None: pass --layer")
    other = inspect(str(toys / "exact"), "--layer", "7", *of_model(hub), *out)
    fails_after_notes(other, 2, "there is no block 7: the model has blocks 0 to 1")
    dead = inspect(str(hub / "dead"), *of_model(hub), *out)
    fails_after_notes(dead, 1, "none of the 24 features of dead fires on these 300 rows")
    narrow = StandardTrainingTranscoder(StandardTrainingTranscoderConfig(d_in=6, d_sae=8))
    narrow.save_inference_model(tmp_path / "narrow")
    width = inspect(str(tmp_path / "narrow"), "--layer", "1", *of_model(hub), *out)
    fails_after_notes(width, 2, "the transcoder maps 6 to 6 and the layer 16 to 16")
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    text = ["--model", str(hub / "model"), "--text", str(empty), "--layer", "1", "--context-size", "16"]
    fails_after_notes(inspect(str(hub / "plain"), *text, *out), 2, "there is no text in")
    assert not (tmp_path / "page.html").exists()


def fails_after_notes(result: Any, code: int, message: str) -> None:
    """As `fails`, what went on before being told as well."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    (told,) = [line for line in result.stderr.splitlines() if "error: " in line]
    assert message in told


def test_help_has_an_example():
    assert "Example: faithfulness inspect" in inspect("--help").output


def test_positions_are_left_out_and_counted_on_the_page(hub, tmp_path):
    page = tmp_path / "page.html"
    done = inspect(str(hub / "plain"), *of_model(hub), "--skip-first", "2", "--out", str(page))
    assert done.exit_code == 0, done.output
    meta, arrays = payload_of(page)
    assert "at the first positions" in meta["left_out"]
    assert f"rows: {meta['left_out']}" in done.stderr
    n_pos = arrays["tokens"].shape[1]
    there = arrays["0.top_at"][arrays["0.top_at"] >= 0]
    assert (there % n_pos >= 2).all()
    fails(
        inspect(str(hub / "plain"), *of_model(hub), "--context-size", "65", "--out", str(tmp_path / "b")),
        2,
        "64 positions",
    )
    fails(
        inspect(str(hub / "plain"), *of_model(hub), "--skip-first", "127", "--out", str(tmp_path / "b")),
        2,
        "leaves too",
    )
    fails(
        inspect(str(hub / "plain"), "--layer", "abs", "--skip-first", "1", "--out", str(tmp_path / "b")), 2, "of a text"
    )
    assert not (tmp_path / "b").exists()


def test_delphi_gets_a_folder_for_each_transcoder(hub, tmp_path):
    cache = tmp_path / "cache"
    arguments = of_model(hub, str(hub / "plain"), "--out", str(tmp_path / "page.html"), "--delphi", str(cache))
    done = inspect(*arguments)
    assert done.exit_code == 0, done.output
    assert f"{cache / 'plain'}" in done.stderr
    assert [path.name for path in cache.iterdir()] == ["plain"]
    config = json.loads((cache / "plain" / "config.json").read_text())
    assert config["model_name"] == str(hub / "model")
    assert config["cache_ctx_len"] == 16
    fails(inspect(*arguments, "--overwrite", "--layer", "abs"), 2, "delphi explains features on text")
    fails(inspect(*arguments[:-4], "--out", str(tmp_path / "two.html"), "--delphi", str(cache)), 2, "is not empty")


def test_features_are_handed_on_by_layer(hub, tmp_path):
    features, exports = tmp_path / "features", tmp_path / "exports"
    to = ["--circuit-tracer", str(features), "--neuronpedia", str(exports)]
    for layer, folder in enumerate(("silent_about_its_layer", "plain")):
        page = ["--layer", str(layer), "--out", str(tmp_path / f"{layer}.html")]
        done = inspect(*of_model(hub, f"set={hub / folder}", *page, *to))
        assert done.exit_code == 0, done.output
        assert f"{exports / 'model' / f'{layer}-set'}, {features / 'set'}" in done.stderr
    assert {path.name for path in (features / "set").iterdir()} == {"index.json.gz", "layer_0.bin", "layer_1.bin"}
    line = gzip.decompress((exports / "model" / "1-set" / "features" / "batch-0.jsonl.gz").read_bytes()).splitlines()[5]
    assert (json.loads(line)["modelId"], json.loads(line)["index"]) == ("model", "5")
    source = json.loads((exports / "model" / "1-set" / "source.jsonl").read_text())
    assert (source["dataset"], source["num_tokens_in_prompt"]) == (str(hub / "text"), 16)
    again = of_model(hub, f"set={hub / 'plain'}", "--out", str(tmp_path / "2.html"))
    fails(inspect(*again, *to[:2]), 2, "holds features of layer 1 of set of")
    fails(inspect(*again, "--overwrite", *to[2:], "--layer", "abs"), 2, "Neuronpedia explains features on text")
    (features / "set" / "notes.txt").touch()
    fails(inspect(*again, "--overwrite", *to[:2]), 2, "it holds notes.txt, which is none of circuit-tracer's")


@pytest.mark.bitwise("the same rows through the same transcoder in one process round alike")
def test_after_ctrl_c_the_same_command_makes_nothing_again_that_was_finished(hub, tmp_path, monkeypatch):
    def raising(error: BaseException) -> Any:
        def raises(*_: Any, **__: Any) -> Any:
            raise error

        return raises

    whole = inspect(str(hub / "plain"), *of_model(hub, "--out", str(tmp_path / "whole.html")))
    assert whole.exit_code == 0, whole.output
    parts = [
        "rows",
        *(f"plain: {part}" for part in ("activations", "features", "details", "Jacobians", "tokens", "together")),
        "page",
    ]
    said = [line.split("] ")[1].split(", ")[0] for line in whole.stderr.splitlines() if line.startswith("[")]
    assert said == parts  # one count over all
    place, again = "faithfulness_plugin.inspection", of_model(hub, "--out", str(tmp_path / "page.html"))
    with monkeypatch.context() as patched:
        patched.setattr(f"{place}.inspection.overview", raising(KeyboardInterrupt()))
        stopped = inspect(str(hub / "plain"), *again)
    assert stopped.exit_code == 130
    assert "finished parts are kept in" in stopped.stderr
    assert not (tmp_path / "page.html").exists()
    assert len(list((tmp_path / ".unfinished.page.html").iterdir())) == 4
    for made in ("subjects.text_sample", "inspection.read_sample", "inspection.feature_records"):
        monkeypatch.setattr(f"{place}.{made}", raising(AssertionError(f"{made} again")))
    done = inspect(str(hub / "plain"), *again)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "whole.html"]
    for one, other in zip(payload_of(tmp_path / "whole.html"), payload_of(tmp_path / "page.html"), strict=True):
        np.testing.assert_equal(one, other)


def test_a_full_disk_keeps_nothing_and_inspects_all_the_same(toys, tmp_path, monkeypatch):
    monkeypatch.setattr("faithfulness_plugin.cli.parts.ROOM", 1e15)
    out = tmp_path / "page.html"
    done = inspect(str(toys / "exact"), "--layer", "abs", "--tokens", "500", "--out", str(out))
    assert done.exit_code == 0, done.output
    assert "has no room to keep finished parts" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
