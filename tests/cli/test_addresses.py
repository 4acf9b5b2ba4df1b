"""Commands that take a path take an address, against a hub on this machine."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_hub
import torch
from command_line import fails
from local_hub import LocalHub, local_hub
from typer.testing import CliRunner

from faithfulness_plugin import StandardTrainingTranscoder, StandardTrainingTranscoderConfig
from faithfulness_plugin.cli.app import app
from faithfulness_plugin.cli.hook_options import by_name
from faithfulness_plugin.transcoders.releases import release_of

pytestmark = pytest.mark.usefixtures("as_installed")
ADDRESS = "hf://owner/repo/blocks.1.mlp"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_hub.write_hub(folder)
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[LocalHub]:
    with local_hub(tmp_path, monkeypatch) as hub:
        transcoder = StandardTrainingTranscoder(StandardTrainingTranscoderConfig(d_in=tiny_hub.D_MODEL, d_sae=24))
        transcoder.cfg.metadata.hook_name = "blocks.1.mlp.hook_in"
        transcoder.save_inference_model(hub.root / "owner/repo/blocks.1.mlp")
        yield hub


def run(*args: str) -> Any:
    return CliRunner().invoke(app, list(args))


def inspect(model: Path, *args: str) -> Any:
    given = ("--model", str(model / "model"), "--text", str(model / "text"), "--tokens", "300", "--context-size", "16")
    return run("inspect", *args, *given)


def measure(model: Path, out: Path, *args: str) -> Any:
    given = ("--model", str(model / "model"), "--text", str(model / "text" / "0.txt"), "--prompts", "4")
    return run("measure", *args, *given, "--context-size", "16", "--out", str(out))


def test_inspect(hub, model, tmp_path):
    page = tmp_path / "page.html"
    result = inspect(model, f"mine={ADDRESS}", "--compare", ADDRESS, "--out", str(page))
    assert result.exit_code == 0, result.output
    assert "mine" in result.stdout
    assert "blocks.1.mlp" in result.stdout
    assert page.exists()


@pytest.mark.bitwise("a rerun in one process makes the same products of the same shapes")
def test_measure_and_its_rerun(hub, model, tmp_path):
    result = measure(model, tmp_path / "out", ADDRESS, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads((tmp_path / "out" / "result.json").read_text())
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    assert found["config"]["transcoders"] == {"blocks.1.mlp": ADDRESS}
    hub.disconnect()  # measured again from the hub's cache
    again = run("bench", "rerun", str(tmp_path / "out" / "result.json"))
    assert again.exit_code == 0, again.output


def test_a_quick_look_measures_the_transcoder_alone(hub, model, tmp_path):
    result = measure(model, tmp_path / "out", ADDRESS, "--quick", "--block", "1", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [of["role"] for of in found["measured"]] == ["transcoder"]
    assert (found["complete"], found["config"]["held_out_prompts"], found["config"]["block"]) == (True, 4, 1)
    assert found["config"]["left_out"] == ["first directions", "effects", "deletion"]
    differs = "references False, not True; left_out ['first directions', 'effects', 'deletion'], not []"
    fails(measure(model, tmp_path / "out", ADDRESS, "--block", "1"), 2, differs)


def test_a_transcoder_that_changed_at_its_address_is_told(hub, model, tmp_path):
    assert measure(model, tmp_path / "out", ADDRESS).exit_code == 0
    torch.manual_seed(9)
    transcoder = StandardTrainingTranscoder(StandardTrainingTranscoderConfig(d_in=tiny_hub.D_MODEL, d_sae=24))
    transcoder.cfg.metadata.hook_name = "blocks.1.mlp.hook_in"
    transcoder.save_inference_model(hub.root / "owner/repo@v2/blocks.1.mlp")
    (hub.root / "owner/repo").rename(hub.root / "owner/repo@v1")
    (hub.root / "owner/repo@v2").rename(hub.root / "owner/repo")
    hub.head["owner/repo"] = "second"
    fails(measure(model, tmp_path / "out", ADDRESS), 2, "has changed since the result was begun")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (ADDRESS, "the hub cannot be reached"),
        ("gemma-scope-2b-pt-transcoders/layer_0/width_16k/average_l0_76", "the hub cannot be reached"),
        (
            "gemma-scope-2b-pt-transcoders/layer_0/width_16k/average_l0_7",
            "did you mean layer_0/width_16k/average_l0_76",
        ),
        ("gemma-scope-2b-pt-transcoder/layer_0", "did you mean gemma-scope-2b-pt-transcoders"),
        ("hf://owner", "is no address"),
    ],
)
def test_what_cannot_be_had_is_told_in_a_line(source, message, hub, model, tmp_path):
    hub.disconnect()
    fails(inspect(model, source, "--out", str(tmp_path / "page.html")), 2, message)
    fails(measure(model, tmp_path / "out", f"mine={source}"), 2, message)
    assert not (tmp_path / "page.html").exists()
    assert not (tmp_path / "out").exists()


def test_names_of_sources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "lr=0.003").mkdir(parents=True)
    (tmp_path / "lr=0.003").mkdir()
    scope = "layer_3/width_16k/average_l0_54"
    release, address = f"gemma-scope-2b-pt-transcoders/{scope}", f"hf://google/gemma-scope-2b-pt-transcoders/{scope}"
    for source, name in (
        ("lr=0.003", "lr=0.003"),
        ("runs/lr=0.003", "lr=0.003"),
        ("hf://a/b/lr=0.003", "lr=0.003"),
        (address, "average_l0_54"),
        (f"{address}/params.npz", "average_l0_54"),
        ("hf://owner/repo", "repo"),
        (release, "average_l0_54"),
    ):
        assert by_name([source]) == {name: source}
    assert by_name(["mine=runs/lr=0.003", f"yours={address}"]) == {"mine": "runs/lr=0.003", "yours": address}
    (tmp_path / "gemma-scope-2b-pt-transcoders").mkdir()
    assert release_of(release) is not None  # a folder of that name has no such folder in it
    (tmp_path / release).mkdir(parents=True)
    assert release_of(release) is None
