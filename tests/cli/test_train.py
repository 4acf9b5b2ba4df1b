import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import forks
import huggingface_hub.constants
import pytest
import tiny_hub
import torch
from command_line import fails, settings_file
from huggingface_hub import ModelCard
from sae_lens import SAE
from typer.testing import CliRunner

from faithfulness_plugin.cli.app import app
from faithfulness_plugin.language_model.result import TrainResult
from faithfulness_plugin.language_model.rows import EVERY_ROW
from faithfulness_plugin.results.schema import read_result

pytestmark = pytest.mark.usefixtures("as_installed")
NAMES = ["block1_coefficient0", "block1_coefficient0.5"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> dict[str, Any]:
    return tiny_hub.write_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def settings(hub, tmp_path):
    return settings_file(tmp_path / "mine.yaml", hub)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def train(config: str, out: Path, *arguments: str):
    return CliRunner().invoke(app, ["train", config, "--out", str(out), *arguments])


def result_in(out: Path) -> TrainResult:
    return read_result(out / "result.json", TrainResult)


def weights(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in out.glob("transcoders/*/sae_weights.safetensors")}


def test_from_a_file_to_transcoders_and_again(settings, tmp_path, monkeypatch):
    out, path = tmp_path / "out", settings()
    monkeypatch.setattr(sys, "argv", ["/somewhere/faithfulness", "train", path, "--out", "my out"])
    first = train(path, out)
    assert first.exit_code == 0, first.output
    assert first.stdout.count("| before |") == first.stdout.count("| after |") == 2
    assert "| block | coefficient | training | FVU | L0 |" in first.stdout
    assert "| microseconds a token | model | layer | transcoder |" in first.stdout
    assert f"written: {out / 'result.json'}" in first.stderr
    found = result_in(out)
    assert found.complete
    assert [trained.name for trained in found.transcoders] == NAMES
    assert found.peak_memory is not None
    lines = [json.loads(line) for line in (out / "transcoders" / "evaluations.jsonl").read_text().splitlines()]
    assert lines == [t.evaluations[n].model_dump() for n in (0, 1) for t in found.transcoders]
    for trained in found.transcoders:
        folder = out / "transcoders" / trained.name
        SAE.load_from_disk(str(folder))
        card = ModelCard.load(folder / "README.md")
        assert card.data.to_dict()["library_name"] == "saelens"
        assert f"| Coefficient: jacobian | {trained.coefficient:g} |" in card.text or not trained.coefficient
        assert f"| Fraction of variance unexplained | {trained.evaluations[-1].fvu:.4g} |" in card.text
        assert f"| Command | `faithfulness train {path} --out 'my out'` |" in card.text
        assert "| Writes | `blocks.1.mlp.hook_out` |" in card.text
    before = (out / "result.json").read_bytes()
    again = train(path, out)
    assert again.exit_code == 0
    assert "is complete; shown again, not run again" in again.stderr
    assert again.stdout == first.stdout
    assert (out / "result.json").read_bytes() == before


def test_flags_stand_in_place_of_the_file(settings, tmp_path):
    result = train(settings(seed=5), tmp_path / "out", "--tokens", "320", "--seed", "3")
    assert result.exit_code == 0, result.output
    config = result_in(tmp_path / "out").config
    assert (config.tokens, config.seed, config.batch_size) == (320, 3, 64)


def test_other_settings_are_told_and_overwritten_if_asked(settings, tmp_path):
    out, path = tmp_path / "out", settings()
    assert train(path, out).exit_code == 0
    before = (out / "result.json").read_bytes()
    fails(train(path, out, "--tokens", "320"), 2, "other settings (tokens 640, not 320): choose another --out, or pass")
    assert (out / "result.json").read_bytes() == before
    old = weights(out)
    anew = train(path, out, "--tokens", "320", "--overwrite")
    assert anew.exit_code == 0, anew.output
    assert result_in(out).config.tokens == 320
    assert all(weights(out)[name] != old[name] for name in NAMES)
    assert {evaluation.tokens for t in result_in(out).transcoders for evaluation in t.evaluations} == {0, 320}


def test_files_of_others_are_left_alone(settings, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.md").write_text("mine")
    fails(train(settings(), tmp_path / "out"), 2, "is not empty and holds no result.json")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.md"]


@pytest.mark.parametrize(
    ("changed", "arguments", "message"),
    [
        ({"tokns": 1}, [], "there is no setting tokns: did you mean tokens?"),
        ({"coefficients": [-1.0]}, [], "-1.0 is negative"),
        ({"transcoder": {"k": 3}}, [], "d_sae, the number of features, is missing"),
        ({}, ["--tokens", "0"], "tokens: Input should be greater than or equal to 1"),
        ({}, ["--seed", "-1"], "seed: Input should be greater than or equal to 0"),
        ({}, ["--device", "tpu"], "device: Input should be 'cpu' or 'cuda'"),
    ],
)
def test_bad_settings_exit_with_2_and_a_line_and_leave_nothing(settings, tmp_path, changed, arguments, message):
    result = train(settings(**changed), tmp_path / "out", *arguments)
    fails(result, 2, message)
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["a: [", "- 1", "tokens: !!python/name:os.system"])
def test_bad_yaml_exits_with_2_and_a_line(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    fails(train(str(tmp_path / "bad.yaml"), tmp_path / "out"), 2, "bad.yaml")
    fails(train(str(tmp_path / "missing.yaml"), tmp_path / "out"), 2, "missing.yaml cannot be read")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"blocks": [2]}, "blocks: there is no block 2: the model has blocks 0 to 1"),
        ({"model": {"name": "nobody/no-such-model"}}, "model nobody/no-such-model could not be loaded"),
        ({"tokens": 10**6}, "give more text, or set text: {repeat: true}"),
        ({"text": {"files": ["/nowhere.txt"]}}, "/nowhere.txt"),
        ({"device": "cuda"}, "torch sees no CUDA device here; use device: cpu"),
    ],
)
def test_what_is_not_to_be_had_exits_with_2_and_a_line(settings, tmp_path, monkeypatch, changed, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    fails(train(settings(**changed), tmp_path / "out"), 2, message)


def test_settings_that_did_not_work_can_be_mended(settings, tmp_path):
    assert train(settings(blocks=[2]), tmp_path / "out").exit_code == 2
    assert train(settings(), tmp_path / "out").exit_code == 0


def test_a_complete_result_outlives_an_overwrite_that_cannot_begin(settings, tmp_path):
    out = tmp_path / "out"
    assert train(settings(), out).exit_code == 0
    assert train(settings(blocks=[2]), out, "--overwrite").exit_code == 2
    assert result_in(out).complete


def test_an_overwrite_that_is_stopped_at_once_replaces_nothing(settings, tmp_path, monkeypatch):
    from faithfulness_plugin.language_model import loaded as module

    out = tmp_path / "out"
    assert train(settings(checkpoints=1), out).exit_code == 0

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "load_model", stopped)
        result = train(settings(checkpoints=1, lr=0.01), out, "--overwrite")
    assert result.exit_code == 130
    assert "nothing has been begun, or replaced" in result.stderr
    assert "shown again" in train(settings(checkpoints=1), out).stderr


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_a_run_that_fails_exits_with_1_and_can_be_gone_on_with(settings, tmp_path, monkeypatch):
    from faithfulness_plugin.language_model import train as module

    out, path = tmp_path / "out", settings(checkpoints=2)

    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory\nwith details")

    with monkeypatch.context() as patched:
        patched.setattr(module, "measure", full)
        fails(train(path, out), 1, "out of memory")
    assert not result_in(out).complete
    assert train(path, out).exit_code == 0
    assert train(path, tmp_path / "whole").exit_code == 0
    assert weights(out) == weights(tmp_path / "whole")


def test_an_exploding_run_exits_with_1(settings, tmp_path):
    fails(train(settings(lr=1e30), tmp_path / "out"), 1, "")


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
@pytest.mark.parametrize(("number", "prefetch"), [(signal.SIGINT, 0), (signal.SIGINT, 2), (signal.SIGTERM, 0)])
def test_a_run_stopped_at_any_step_ends_as_if_it_had_not_been(settings, tmp_path, monkeypatch, number, prefetch):
    from faithfulness_plugin.adapters.sae_lens.store import ResumableStore

    path = settings(prefetch=prefetch)
    assert train(path, tmp_path / "whole").exit_code == 0
    taken, calls = ResumableStore.taken, []

    def stopping(store: ResumableStore) -> None:
        taken(store)
        calls.append(store)
        if len(calls) == 6:
            signal.raise_signal(number)

    with monkeypatch.context() as patched:
        patched.setattr(ResumableStore, "taken", stopping)
        stopped = train(path, tmp_path / "out")
    assert stopped.exit_code == 128 + number
    assert stopped.stdout == ""
    assert not result_in(tmp_path / "out").complete
    assert [checkpoint.name for checkpoint in (tmp_path / "out" / "checkpoints").iterdir()] == [str(6 * 64)]
    again = train(path, tmp_path / "out")
    assert again.exit_code == 0, again.output
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
    whole = result_in(tmp_path / "whole").transcoders
    assert result_in(tmp_path / "out").transcoders == whole


@pytest.mark.parametrize("damage", ["faithful_run.json", "activation_rows.safetensors"])
def test_a_damaged_checkpoint_exits_with_1_and_says_what_to_do(settings, tmp_path, monkeypatch, damage):
    from faithfulness_plugin.language_model import train as module

    out, path = tmp_path / "out", settings(checkpoints=1)

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "measure", stopped)
        assert train(path, out).exit_code == 130
    (newest,) = (out / "checkpoints").glob("*/activation_rows.safetensors")
    (newest.parent / damage).write_text("{")
    fails(train(path, out), 1, "it may be corrupt: move it away")


@pytest.mark.bitwise("two processes on one machine make the same products of the same shapes")
def test_ctrl_c_in_a_terminal_exits_with_130_and_the_same_command_goes_on(settings, tmp_path):
    path, out = settings(tokens=3200, batch_size=16), tmp_path / "out"
    main = "from faithfulness_plugin.cli.app import main; main()"
    command = forks.start(main, "train", path, "--out", out, environment={"HF_HUB_OFFLINE": "1"}, session=True)
    seen = b""
    while b"Training Multi-SAE:" not in seen:  # the bar, before the first step
        more = os.read(command.stderr.fileno(), 4096)
        assert more, seen
        seen += more
    assert command.process.pid is not None
    os.killpg(command.process.pid, signal.SIGINT)
    done = command.wait()
    assert done.returncode == 130, done.stderr
    assert done.stdout == ""
    assert "stopped; the same command resumes from the last checkpoint" in done.stderr
    assert "Traceback" not in done.stderr
    assert not result_in(out).complete
    (checkpoint,) = (out / "checkpoints").iterdir()
    assert int(checkpoint.name) < 3200
    again = train(path, out)
    assert again.exit_code == 0, again.output
    assert train(path, tmp_path / "whole").exit_code == 0
    assert weights(out) == weights(tmp_path / "whole")


def test_the_model_folder_may_go_once_a_run_is_complete(hub, settings, tmp_path):
    shutil.copytree(hub["model"]["name"], tmp_path / "model")
    path = settings(model={"name": str(tmp_path / "model")})
    first = train(path, tmp_path / "out")
    shutil.rmtree(tmp_path / "model")
    assert train(path, tmp_path / "out").stdout == first.stdout


@pytest.mark.slow
def test_the_model_and_text_that_need_no_hub(tmp_path):
    path = tmp_path / "real.yaml"
    path.write_text("held_out_prompts: 2\nprompts_per_pass: 2\nbuffer_prompts: 8\ntranscoder: {d_sae: 64, k: 8}\n")
    result = train(str(path), tmp_path / "out", "--tokens", "2048")
    assert result.exit_code == 0, result.output
    found = result_in(tmp_path / "out")
    assert "dequantised" in found.model
    assert "dequantised" in result.stdout
    for trained in found.transcoders:
        assert (trained.hook_in, trained.hook_out) == ("blocks.10.mlp.hook_in", "blocks.10.mlp.hook_out")
        before, after = trained.evaluations
        assert 0 < after.fvu < before.fvu < float("inf")
        assert after.ce_clean < after.ce_zero


def test_positions_and_norms_are_left_out_of_training_and_evaluation(settings, tmp_path):
    options = ("--skip-first", "2", "--exclude-norms-above", "1.5")
    run = train(settings(), tmp_path / "out", *options)
    assert run.exit_code == 0, run.output
    found = result_in(tmp_path / "out")
    (rows,) = found.rows
    assert (rows.tokens, rows.positions) == (4 * 16, 4 * 2)
    assert rows.norms > 0
    assert f"held-out rows at blocks.1.mlp.hook_in: {rows.rows} of 64 tokens count; left out: 8 at the" in run.stderr
    metadata = SAE.load_from_disk(str(tmp_path / "out" / "transcoders" / NAMES[0])).cfg.metadata
    assert tuple(metadata.seqpos_slice) == (2, None)
    stored = train(settings(), tmp_path / "stored", *options, "--stores", str(tmp_path / "stores"))
    assert stored.exit_code == 0, stored.output
    assert result_in(tmp_path / "stored").rows == [rows]
    fails(train(settings(), tmp_path / "other", "--stores", str(tmp_path / "stores")), 2, "left out")


def test_prompts_that_do_not_fit_the_model_leave_nothing_behind(settings, tmp_path):
    path = settings(context_size=65, tokens=640)
    fails(train(path, tmp_path / "out"), 2, "context_size 65 is longer than the model, which has 64 positions")
    fails(train(path, tmp_path / "out", "--stores", str(tmp_path / "stores")), 2, "which has 64 positions")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "stores").exists()


def test_an_option_overrides_the_file_also_as_none(settings, tmp_path):
    rows = {"skip_first": 2, "special_tokens": True}
    run = train(settings(rows=rows), tmp_path / "out", "--skip-first", "0", "--no-special-tokens")
    assert run.exit_code == 0, run.output
    assert result_in(tmp_path / "out").config.rows == EVERY_ROW
