"""A transcoder for every block of a model, from one pass over it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_hub
import torch
from command_line import fails, settings_file
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from faithfulness_plugin.adapters.sae_lens.checkpointed_batches import checkpoints
from faithfulness_plugin.cli.app import app
from faithfulness_plugin.language_model.config import TrainConfig
from faithfulness_plugin.language_model.plan import as_blocks, say_blocks
from faithfulness_plugin.language_model.report import tables
from faithfulness_plugin.language_model.result import TrainResult
from faithfulness_plugin.language_model.train import TRANSCODERS, Training
from faithfulness_plugin.results.experiment import complete
from faithfulness_plugin.results.schema import read_result
from faithfulness_plugin.results.settings_file import SettingsError, make_config

pytestmark = pytest.mark.usefixtures("as_installed")
DEEP = 6
"""Blocks, more than are shown one by one."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> dict[str, Any]:
    return tiny_hub.write_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def deep(hub, tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("deep")
    config = LlamaConfig.from_pretrained(hub["model"]["name"], num_hidden_layers=DEEP)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        LlamaForCausalLM(config).save_pretrained(folder)
    tiny_hub.tokenizer().save_pretrained(folder)
    return {**hub, "model": {"name": str(folder)}}


def configured(settings: dict[str, Any]) -> TrainConfig:
    return make_config(settings, "here", TrainConfig)


def weights(out: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {path.parent.name: load_file(path) for path in sorted(out.glob(f"{TRANSCODERS}/*/sae_weights.safetensors"))}


def same(ours: dict[str, dict[str, torch.Tensor]], theirs: dict[str, dict[str, torch.Tensor]]) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name][w], theirs[name][w]) for name in ours for w in ours[name]
    )


@pytest.mark.parametrize(
    ("text", "blocks"), [("all", "all"), (" all ", "all"), ("3", [3]), ("0,4-6, 9", [0, 4, 5, 6, 9]), ([1], [1])]
)
def test_blocks_are_read_from_texts(text, blocks):
    assert as_blocks(text) == blocks
    assert configured({"blocks": text}).blocks == blocks


@pytest.mark.parametrize("text", ["every", "1,", "3-1", "-1", "1;2", "1.5"])
def test_a_text_that_names_no_blocks_is_refused_in_a_line(text):
    with pytest.raises(SettingsError, match=r"names no blocks: write all, or their numbers, as in 3 or 0,4-7") as error:
        configured({"blocks": text})
    assert "\n" not in str(error.value)


def test_numbers_of_blocks_are_said_shortly():
    assert say_blocks([3]) == "block 3"
    assert say_blocks([9, 0, 4, 6, 5]) == "blocks 0, 4-6, 9"


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_all_are_those_that_would_be_trained_one_at_a_time(hub, tmp_path):
    every = complete(Training(), configured({**hub, "blocks": "all"}), tmp_path / "all")
    assert every.blocks == every.all_blocks == [0, 1]
    assert [(t.block, t.coefficient) for t in every.transcoders] == [(0, 0), (0, 0.5), (1, 0), (1, 0.5)]
    listed = complete(Training(), configured({**hub, "blocks": [0, 1]}), tmp_path / "listed")
    assert listed.all_blocks == []
    assert "all_blocks" not in listed.model_dump()
    assert same(weights(tmp_path / "all"), weights(tmp_path / "listed"))
    for block in (0, 1):
        complete(Training(), configured({**hub, "blocks": [block], "coefficients": [0.5]}), tmp_path / f"{block}")
        (alone,) = weights(tmp_path / f"{block}").values()
        assert same({"t": weights(tmp_path / "all")[f"block{block}_coefficient0.5"]}, {"t": alone})
    assert read_result(tmp_path / "all" / "result.json", TrainResult) == every


def test_many_blocks_are_shown_by_their_means_and_only_afterwards_one_by_one(deep, tmp_path):
    changed = {"blocks": "all", "coefficients": [0, 0.5], "held_out_prompts": 8, "checkpoints": 2}
    result = complete(Training(), configured({**deep, **changed}), tmp_path)
    text = tables(result)
    assert text.count("| before |") == 2
    assert text.count("| after |") == 2 + 2 * DEEP
    fvu = [t.evaluations[-1].fvu for t in result.transcoders if t.coefficient == 0]
    assert f"| {sum(fvu) / DEEP:.3f} ({min(fvu):.3f} to {max(fvu):.3f}) |" in text
    assert "The spliced model was run on 4 of the prompts" in text
    earlier, newest = checkpoints(tmp_path / "checkpoints")[:-1], checkpoints(tmp_path / "checkpoints")[-1]
    assert earlier
    assert not [file for folder in earlier for file in folder.rglob("trainer_state.pt")]
    assert len(list(newest.rglob("trainer_state.pt"))) == 2 * DEEP
    assert len(list(earlier[0].rglob("sae_weights.safetensors"))) == 2 * DEEP


def test_how_many_prompts_the_spliced_model_is_run_on():
    config = configured({"held_out_prompts": 20, "prompts_per_pass": 8})
    assert (config.spliced(1), config.spliced(30)) == (24, 8)
    config = configured({"held_out_prompts": 20, "prompts_per_pass": 8, "spliced_prompts": 12})
    assert (config.spliced(1), config.spliced(30)) == (12, 12)


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
@pytest.mark.parametrize("stores", [False, True])
def test_a_stopped_run_of_all_blocks_resumes(hub, tmp_path, monkeypatch, stores):
    from faithfulness_plugin.language_model import train, train_stored

    config = configured({**hub, "blocks": "all", "checkpoints": 2})
    whole = complete(Training(tmp_path / "stores" if stores else None), config, tmp_path / "whole")

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if stores:
            calls = []
            card = train_stored.write_card
            patched.setattr(
                train_stored, "write_card", lambda *a: stop() if len(calls) == 2 else (calls.append(a), card(*a))
            )
        else:
            patched.setattr(train, "measure", stop)
        with pytest.raises(KeyboardInterrupt):
            complete(Training(tmp_path / "stores" if stores else None), config, tmp_path / "out")
    assert read_result(tmp_path / "out" / "result.json", TrainResult).all_blocks == [0, 1]
    resumed = complete(Training(tmp_path / "stores" if stores else None), config, tmp_path / "out")
    assert resumed.transcoders == whole.transcoders
    assert same(weights(tmp_path / "out"), weights(tmp_path / "whole"))


ARMS = {
    "plain": {},
    "skip": {"skip": True},
    "pairs": {"coefficient": 0.5, "jacobian": {"probe": "pair"}},
    "secants": {"coefficient": 0.5, "skip": True, "jacobian": {"estimator": "secant", "probe": "pair"}},
}


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
@pytest.mark.parametrize("stores", [False, True])
def test_arms_differ_in_skip_and_probes_side_by_side(hub, tmp_path, stores):
    config = configured({k: v for k, v in hub.items() if k != "coefficients"} | {"arms": ARMS, "blocks": "all"})
    training = Training(tmp_path / "stores" if stores else None)
    result = complete(training, config, tmp_path / "out")
    found = weights(tmp_path / "out")
    assert list(found) == sorted(f"block{block}_{arm}" for block in (0, 1) for arm in ARMS)
    for name, of in found.items():
        assert ("W_skip" in of) == (name.partition("_")[2] in ("skip", "secants"))
    text = tables(result)
    assert "| block | arm | training |" in text
    assert "| 1 | secants | after |" in text
    alone = {**ARMS["pairs"]["jacobian"]}
    by_itself = configured({**hub, "coefficients": [0.5], "jacobian": alone})
    complete(Training(tmp_path / "others" if stores else None), by_itself, tmp_path / "alone")
    (right,) = weights(tmp_path / "alone").values()
    if not stores:  # several kinds of products in one store have probes of their own
        assert same({"t": found["block1_pairs"]}, {"t": right})
    assert read_result(tmp_path / "out" / "result.json", TrainResult) == result


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"arms": {"a": {}}, "coefficients": [0.5]}, "leave coefficients out, or name no arms"),
        ({"arms": {"a/b": {}}}, "'a/b' is to be a part of a folder's name"),
        ({"arms": {"a": {"coefficient": -1}}}, "greater than or equal to 0"),
        ({"arms": {"a": {"jacobian": {"probe": "sideways"}}}}, "sideways"),
        ({"blocks": []}, "at least 1 item"),
        ({"blocks": [1, 1]}, "a value is given twice"),
        ({"buffer_dtype": "int8"}, "'float32', 'bfloat16' or 'float16'"),
    ],
)
def test_bad_settings_are_refused_in_a_line(hub, changed, message):
    settings = {k: v for k, v in hub.items() if k != "coefficients"} | changed
    with pytest.raises(SettingsError, match=message) as error:
        configured(settings)
    assert "\n" not in str(error.value)


def test_rows_in_half_precision_train_nearly_the_same(hub, tmp_path):
    fvu = {}
    for dtype in (None, "bfloat16"):
        changed = {"buffer_dtype": dtype, "tokens": 5120, "lr": 1e-2, "coefficients": [0.0]}
        (trained,) = complete(Training(), configured({**hub, **changed}), tmp_path / f"{dtype}").transcoders
        fvu[dtype] = trained.evaluations[-1].fvu
    assert fvu[None] != fvu["bfloat16"] == pytest.approx(fvu[None], rel=0.1)


def test_checkpoints_that_do_not_fit_the_disk_are_refused_in_a_line(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 3_000_000}))
    wide = {**hub, "transcoder": {"d_sae": 4096, "k": 4}}
    run = CliRunner().invoke(
        app,
        ["train", settings_file(tmp_path / "s.yaml", wide)(), "--blocks", "all", "--out", str(tmp_path / "out")],
    )
    fails(run, 2, "MB are needed and its disk has 3.0 MB free: make room, or choose another --out")
    assert not (tmp_path / "out").exists()


def test_the_command_takes_all_and_says_what_it_holds(hub, tmp_path):
    path, out = settings_file(tmp_path / "s.yaml", hub)(), tmp_path / "out"
    run = CliRunner().invoke(app, ["train", path, "--blocks", "all", "--out", str(out)])
    assert run.exit_code == 0, run.output
    assert "4 transcoders of 2 blocks take 0.00 GB of memory with their optimizers" in run.stderr
    assert read_result(out / "result.json", TrainResult).config.blocks == "all"
    again = CliRunner().invoke(app, ["train", path, "--blocks", "all", "--out", str(out)])
    assert "shown again" in again.stderr
    fails(CliRunner().invoke(app, ["train", path, "--blocks", "0-", "--out", str(out)]), 2, "'0-' names no blocks")


def test_blocks_without_an_mlp_are_left_out_of_all_and_named(hub, tmp_path, monkeypatch):
    from faithfulness_plugin.errors import UsageError
    from faithfulness_plugin.language_model import loaded

    own = loaded.mlp_layer

    def only_the_last(model, block):
        if block == 0:
            raise UsageError("block 0 has no MLP")
        return own(model, block)

    monkeypatch.setattr(loaded, "mlp_layer", only_the_last)
    notes: list[str] = []
    result = complete(Training(), configured({**hub, "blocks": "all"}), tmp_path, note=notes.append)
    assert result.blocks == [1]
    assert "without an MLP, and left out: block 0" in notes
