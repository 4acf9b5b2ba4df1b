import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_hub
from command_line import fails, settings_file
from real_layers import SMALL
from typer.testing import CliRunner

from faithfulness_plugin.benchmarks.real_layers import training
from faithfulness_plugin.benchmarks.real_layers.arms import Arm
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.cli.app import app
from faithfulness_plugin.language_model import loaded
from faithfulness_plugin.results.schema import read_result
from faithfulness_plugin.store import DerivativeStore

pytestmark = pytest.mark.usefixtures("as_installed")
COST = {"seconds": None, "peak_memory": None}
PASSAGE: dict[str, Any] = {"text": "ab ae ai", "blocks": [1], "arms": [{}]}


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> dict[str, Any]:
    written = tiny_hub.write_hub(tmp_path_factory.mktemp("hub"))
    arms = [{}, {"term": "secant", "probe": "pair", "coefficient": 0.5}]
    short = {"stored_prompts": 8, "tokens": 160, "line": [], "arms": arms, "passage": PASSAGE}
    return {**SMALL, **short, "model": written["model"], "text": written["text"]}


@pytest.fixture
def settings(hub, tmp_path):
    return settings_file(tmp_path / "mine.yaml", hub)


@pytest.fixture(scope="module")
def first(hub, tmp_path_factory) -> tuple[Any, Path]:
    """An experiment of one seed: what the command said, and the folder of its result (out) and its stores."""
    folder = tmp_path_factory.mktemp("first")
    config = settings_file(folder / "mine.yaml", hub)()
    return bench(folder / "out", config, "--stores", str(folder / "stores")), folder


@pytest.fixture
def finished(first, tmp_path) -> Path:
    """The folder of an experiment that is finished, the test's own."""
    done, folder = first
    assert done.exit_code == 0, done.output
    return shutil.copytree(folder, tmp_path / "finished")


def bench(out: Path, config: str, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["experiment", "real-layers", "--settings", config, "--out", str(out), *arguments])


def test_from_settings_to_a_page_and_again(settings, tmp_path, monkeypatch):
    out = tmp_path / "out"
    done = bench(out, settings(), "--seeds", "2")
    assert done.exit_code == 0, done.output
    assert "secant pair 0.5" in done.stdout
    assert "[6/6] block 1, topk k 4, no term, passage, seed 1: FVU" in done.stderr
    assert "filled shard 2 of 2" in done.stderr
    found = read_result(out / "result.json", RealLayersResult)
    assert len(found.trained) == 6
    assert {path.name for path in out.iterdir()} >= {"report.md", "responses.png", "stores", "transcoders"}
    monkeypatch.setattr(loaded, "load_model", lambda *_: pytest.fail("shown again, not run again"))
    again = bench(out, settings(), "--seeds", "2")
    assert again.exit_code == 0
    assert "is complete; shown again" in again.stderr
    assert again.stdout == done.stdout


def test_stores_serve_a_second_experiment(settings, finished, tmp_path, monkeypatch):
    stores = finished / "stores"
    monkeypatch.setattr(DerivativeStore, "fill_shard", lambda *_: pytest.fail("everything is there"))
    assert bench(tmp_path / "two", settings(), "--stores", str(stores), "--tokens", "96").exit_code == 0


@pytest.mark.bitwise("the same prompts and the same steps in one process round alike")
def test_a_damaged_shard_is_made_again_and_not_trained_on(settings, finished, tmp_path):
    stores = finished / "stores"
    shard = stores / "block1" / "rows-00001.safetensors"
    good = shard.read_bytes()
    shard.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert bench(tmp_path / "two", settings(), "--stores", str(stores)).exit_code == 0
    assert shard.read_bytes() == good
    folders = (finished / "out", tmp_path / "two")
    results = [json.loads((folder / "result.json").read_text())["trained"] for folder in folders]
    for one, other in zip(*results, strict=True):
        assert {**one, **COST} == {**other, **COST}


def test_stores_of_something_else_are_refused(settings, finished, tmp_path):
    stores = finished / "stores"
    fails(
        bench(tmp_path / "two", settings(), "--stores", str(stores), "--seed", "4"),
        2,
        "a store of something else (text",
    )
    with DerivativeStore.open(stores / "block1").writing():
        fails(bench(tmp_path / "three", settings(), "--stores", str(stores)), 2, "is being written by another process")


def test_stopped_it_goes_on(settings, tmp_path, monkeypatch):
    out, real, calls = tmp_path / "out", training.train_transcoder, []

    def second_time(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(training, "train_transcoder", second_time)
    stopped = bench(out, settings())
    assert stopped.exit_code == 130
    assert "holds 1 of 3 transcoders; the same command resumes from there" in stopped.stderr
    again = bench(out, settings())
    assert again.exit_code == 0, again.output
    assert "holds 1 of 3 transcoders: resuming" in again.stderr
    assert len(calls) == 4


@pytest.mark.parametrize(
    ("changed", "arguments", "message"),
    [
        ({"d_sea": 9}, [], "there is no setting d_sea: did you mean d_sae"),
        ({"kinds": [{"sparsity": 4.5}]}, [], "topk keeps a whole number of features, not 4.5"),
        ({"arms": [{"term": "jvp"}]}, [], "a term has a probe and a coefficient"),
        ({"device": "cuda"}, [], "torch sees no CUDA device"),
        ({"blocks": [5], "passage": PASSAGE | {"blocks": [5]}}, [], "there is no block 5"),
        ({"stored_prompts": 10**7}, [], "give more text, or ask for fewer"),
        ({"model": {"name": "no/such"}}, [], "model no/such could not be loaded"),
    ],
)
def test_what_a_user_can_get_wrong(settings, tmp_path, monkeypatch, changed, arguments, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    fails(bench(tmp_path / "out", settings(**changed), *arguments), 2, message)


def test_a_new_run_loses_nothing_before_it_has_all_that_it_needs(settings, finished):
    out, stores = finished / "out", finished / "stores"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    again = ("--stores", str(stores), "--overwrite")
    fails(bench(out, settings(), *again, "--seed", "4"), 2, "a store of something else (text")
    fails(bench(out, settings(model={"name": "no/such"}), *again), 2, "model no/such could not be loaded")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    done = bench(out, settings(arms=[{}]), *again)
    assert done.exit_code == 0, done.output
    assert len(list((out / "transcoders").iterdir())) == 2  # those of the result that was replaced are gone


def test_too_little_room_is_told_before_anything_is_filled(settings, tmp_path, monkeypatch):
    little = shutil._ntuple_diskusage(10**6, 10**6 - 5000, 5000)
    usage = shutil.disk_usage
    monkeypatch.setattr("shutil.disk_usage", lambda path: little if "stores" in str(path) else usage(path))
    fails(bench(tmp_path / "out", settings()), 2, "GB free: make room, choose another --stores, or store less text")
    assert not (tmp_path / "out" / "result.json").exists()


def test_a_result_that_is_there_is_not_replaced(settings, finished, tmp_path):
    out = finished / "out"
    before = (out / "result.json").read_bytes()
    fails(bench(out, settings(), "--tokens", "64"), 2, "holds a result with other settings (tokens 160, not 64)")
    assert (out / "result.json").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    fails(bench(tmp_path / "mine", settings()), 2, "is not empty and holds no result.json")


def test_a_preset_is_overridden_by_settings_and_these_by_options(settings, tmp_path):
    ran = bench(tmp_path / "out", settings(), "--preset", "seeds", "--seeds", "1", "--stores", str(tmp_path / "stores"))
    assert ran.exit_code == 0, ran.output
    found = read_result(tmp_path / "out" / "result.json", RealLayersResult).config
    assert (found.seeds, found.blocks, found.held_out_prompts) == (1, [1], SMALL["held_out_prompts"])
    assert found.line_arms == [Arm(skip=True)]  # the preset's


def test_presets_are_named_in_the_help_and_in_refusals(tmp_path):
    help_text = CliRunner().invoke(app, ["experiment", "real-layers", "--help"]).output
    assert "Presets: closing, controls, early, full, gpu, headline, kinds, long, pareto, seeds, sweep." in " ".join(
        help_text.split()
    )
    run = CliRunner().invoke
    named = run(app, ["experiment", "real-layers", "--preset", "headlin", "--out", str(tmp_path / "out")])
    fails(named, 2, "--preset: there is no preset headlin: did you mean headline?")
