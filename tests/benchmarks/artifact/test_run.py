"""Finished transcoders from folders to tables, on a tiny model."""

from pathlib import Path
from typing import Any

import pytest
import tiny_hub
import torch
from command_line import fails
from typer.testing import CliRunner

from faithfulness_plugin import (
    StandardTrainingTranscoder,
    StandardTrainingTranscoderConfig,
    TopKTrainingTranscoder,
    TopKTrainingTranscoderConfig,
)
from faithfulness_plugin.benchmarks.artifact.config import ArtifactConfig
from faithfulness_plugin.benchmarks.artifact.report import over_prompts, tables
from faithfulness_plugin.benchmarks.artifact.run import complete, open_result, read_artifacts
from faithfulness_plugin.benchmarks.artifact.schema import ROLES, ArtifactResult
from faithfulness_plugin.benchmarks.language_model.config import TrainConfigError, make_config
from faithfulness_plugin.benchmarks.schema import read_result
from faithfulness_plugin.cli import app

pytestmark = pytest.mark.usefixtures("as_installed")
SMALL = {"context_size": 16, "held_out_prompts": 6, "spliced_prompts": 4, "jacobian_rows": 2, "response_rows": 4}


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("hub")
    written = tiny_hub.write_hub(folder)
    for name, seed in (("plain", 0), ("other", 1)):
        torch.manual_seed(seed)
        transcoder = StandardTrainingTranscoder(StandardTrainingTranscoderConfig(d_in=tiny_hub.D_MODEL, d_sae=24))
        transcoder.cfg.metadata.hook_name = "blocks.1.mlp.hook_in"
        transcoder.save_inference_model(folder / name)
    return {"folder": folder, "model": written["model"], "text": written["text"]}


def config(hub: dict[str, Any], names: tuple[str, ...] = ("plain",), **changed: Any) -> ArtifactConfig:
    paths = {name: str(hub["folder"] / name) for name in names}
    settings = {"transcoders": paths, "model": hub["model"], "text": hub["text"], "top": [1, 4], **SMALL, **changed}
    return make_config(settings, "here", ArtifactConfig)


@pytest.fixture(scope="module")
def result(hub, tmp_path_factory) -> ArtifactResult:
    out = tmp_path_factory.mktemp("whole")
    wanted = config(hub, ("plain", "other"))
    return complete(open_result(out, wanted), read_artifacts(wanted), out)


def test_every_transcoder_is_measured_beside_its_references(result):
    assert result.complete
    assert [(m.name, m.role) for m in result.measured] == [(n, role) for n in ("plain", "other") for role in ROLES]
    assert result.layer is not None
    assert (result.layer.block, result.layer.hook_in) == (1, "blocks.1.mlp.hook_in")
    own, shuffled, mean = (result.of("plain", role) for role in ROLES)
    assert own is not None
    assert shuffled is not None
    assert mean is not None
    assert shuffled.l0 == own.l0 > 0
    assert own.effects.keys() == {"input", "feature"}
    assert len(own.effects["input"]) == 1
    assert own.deletion is not None


def test_the_mean_is_what_it_is_called(result):
    mean = result.of("plain", "mean ablation")
    assert over_prompts(mean.error, result.layer.variance).mean == pytest.approx(1, rel=1e-4)
    assert over_prompts(mean.jacobian_error["data"], result.layer.jacobian["data"]).mean == pytest.approx(1, rel=1e-4)
    assert mean.top_error == pytest.approx([1, 1], rel=1e-4)
    assert mean.effects["input"][0].error == pytest.approx(1, abs=1e-4)
    assert mean.deletion is None


@pytest.mark.bitwise("the same measurements of the same files in one process round alike")
def test_stopped_it_goes_on_and_a_changed_transcoder_is_told(result, hub, tmp_path):
    wanted = config(hub, ("plain", "other"))

    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        complete(open_result(tmp_path, wanted), read_artifacts(wanted), tmp_path, on_measured=stop)
    there = open_result(tmp_path, wanted)
    assert len(there.measured) == 1
    resumed = complete(there, read_artifacts(wanted), tmp_path)
    assert resumed.measured == result.measured
    assert read_result(tmp_path / "result.json", ArtifactResult) == resumed
    changed = [there.measured[0].model_copy(update={"digest": "sha256:other"})]
    with pytest.raises(ValueError, match="plain is not what it was"):
        complete(there.model_copy(update={"measured": changed}), read_artifacts(wanted), tmp_path)


def test_the_tables_hold_all_of_it(result):
    text = tables(result)
    for part in ("| plain |", "| — shuffled decoder |", "| — mean ablation |", "| feature |", "| m 1 |"):
        assert part in text


def test_topk_with_a_skip_connection_and_a_block_given_by_hand(hub, tmp_path):
    torch.manual_seed(3)
    transcoder = TopKTrainingTranscoder(TopKTrainingTranscoderConfig(d_in=tiny_hub.D_MODEL, d_sae=24, k=3, skip=True))
    torch.nn.init.normal_(transcoder.W_skip, std=0.1)
    transcoder.save_inference_model(tmp_path / "topk")
    wanted = config(hub, block=0, transcoders={"topk": str(tmp_path / "topk")})
    result = complete(open_result(tmp_path / "out", wanted), read_artifacts(wanted), tmp_path / "out")
    own, mean = result.of("topk"), result.of("topk", "mean ablation")
    assert own is not None
    assert own.l0 <= 3
    assert [stage.stage for stage in own.effects["input"]] == ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    assert mean is not None
    assert mean.top_error == pytest.approx([1, 1], rel=1e-4)  # nothing of the skip connection is left


def test_what_cannot_be_measured_says_why(hub, tmp_path):
    torch.manual_seed(4)
    wide = StandardTrainingTranscoder(StandardTrainingTranscoderConfig(d_in=8, d_sae=24))
    wide.save_inference_model(tmp_path / "wide")
    nameless = {"wide": str(tmp_path / "wide")}
    for error, match, changed in (
        (TrainConfigError, "Their metadata say None: pass --block", {"transcoders": nameless}),
        (ValueError, "wide maps 8 to 8 and the layer 16 to 16", {"transcoders": nameless, "block": 1}),
        (TrainConfigError, "block 7", {"block": 7}),
        (TrainConfigError, "give both, or neither", {"hook_in": "blocks.1.mlp.hook_in"}),
        (TrainConfigError, "either a block or two hooks", {"block": 1, "hook_in": "a", "hook_out": "b"}),
    ):
        with pytest.raises(error, match=match):
            measure(hub, tmp_path / "out", changed)


def measure(hub: dict[str, Any], out: Path, changed: dict[str, Any]) -> ArtifactResult:
    wanted = config(hub, **changed)
    return complete(open_result(out, wanted, overwrite=True), read_artifacts(wanted), out)


def command(hub: dict[str, Any], out: Path, *args: str) -> Any:
    given = [
        "--model",
        hub["model"]["name"],
        "--text",
        hub["text"]["files"][0],
        "--prompts",
        "4",
        "--context-size",
        "16",
    ]
    return CliRunner().invoke(app, ["bench", "artifact", *given, "--out", str(out), *args])


def test_the_command_measures_shows_and_shows_again(hub, tmp_path):
    given = ("--transcoder", f"mine={hub['folder'] / 'plain'}")
    first = command(hub, tmp_path, *given)
    assert first.exit_code == 0, first.output
    assert "J error in the first 1, 4, 16 |" in first.stdout  # the model is 16 wide: 64 directions there are not
    assert "[3/3] mine, mean ablation" in first.stderr
    again = command(hub, tmp_path, *given)
    assert again.stdout == first.stdout
    assert "shown again" in again.stderr
    assert "written" not in again.stderr


def test_bad_arguments_say_what_to_do(hub, tmp_path):
    plain = str(hub["folder"] / "plain")
    for message, args in (
        ("does not exist", ("--transcoder", str(tmp_path / "nothing"))),
        ("there is a plain already", ("--transcoder", plain, "--transcoder", f"plain={plain}")),
        ("give both, or neither", ("--transcoder", plain, "--hook-in", "blocks.0.mlp.hook_in")),
        ("held_out_prompts", ("--transcoder", plain, "--prompts", "1")),
    ):
        fails(command(hub, tmp_path / "out", *args), 2, message)
    assert not (tmp_path / "out").exists()
