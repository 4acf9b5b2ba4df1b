"""Sets from folders to tables, on a tiny model: what `faithfulness train` writes, and what does not fit."""

from pathlib import Path
from typing import Any

import pytest
import tiny_hub
import torch
from command_line import fails
from typer.testing import CliRunner

from faithfulness_plugin import TopKTrainingTranscoder, TopKTrainingTranscoderConfig
from faithfulness_plugin.cli.app import app
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.language_model.config import TrainConfig
from faithfulness_plugin.language_model.train import Training
from faithfulness_plugin.measure.relative_errors import over_prompts
from faithfulness_plugin.measure.sets.config import SetConfig
from faithfulness_plugin.measure.sets.folder import folders_in, sets_in
from faithfulness_plugin.measure.sets.report import tables
from faithfulness_plugin.measure.sets.run import SetMeasurement
from faithfulness_plugin.measure.sets.schema import SetResult
from faithfulness_plugin.results.experiment import complete, open_result
from faithfulness_plugin.results.schema import read_result
from faithfulness_plugin.results.settings_file import make_config
from faithfulness_plugin.transcoders.load import load_each

pytestmark = pytest.mark.usefixtures("as_installed")
SMALL = {"context_size": 16, "held_out_prompts": 6, "effect_prompts": 4, "prompts_per_pass": 4, "doses": [0.5, 1.0]}


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> dict[str, Any]:
    return tiny_hub.write_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def trained(hub, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    complete(Training(), make_config({**hub, "blocks": "all"}, "here", TrainConfig), out)
    return out


def transcoder(folder: Path, block: int | None, d_in: int = tiny_hub.D_MODEL, model: str | None = None) -> None:
    torch.manual_seed(0)
    made = TopKTrainingTranscoder(TopKTrainingTranscoderConfig(d_in=d_in, d_sae=24, k=4))
    if block is not None:
        made.cfg.metadata.hook_name = f"blocks.{block}.mlp.hook_in"
    made.cfg.metadata.model_name = model
    made.save_inference_model(folder)


def config(hub: dict[str, Any], sources: dict[str, str], **changed: Any) -> SetConfig:
    settings = {"sets": sets_in(sources), "model": hub["model"], "text": hub["text"], **SMALL, **changed}
    return make_config(settings, "here", SetConfig)


def measurement_of(wanted: SetConfig) -> SetMeasurement:
    return SetMeasurement({name: load_each(of, **wanted.reading) for name, of in wanted.sets.items()})


def measure(wanted: SetConfig, out: Path, **how: Any) -> SetResult:
    return complete(measurement_of(wanted), wanted, out, **how)


@pytest.fixture(scope="module")
def result(hub, trained, tmp_path_factory) -> SetResult:
    return measure(config(hub, {"t": str(trained)}), tmp_path_factory.mktemp("whole"))


def test_a_runs_folder_holds_a_set_for_each_arm(trained):
    names = {f"block{b}_coefficient{c}" for b in (0, 1) for c in ("0", "0.5")}
    assert set(folders_in(str(trained))) == set(folders_in(str(trained / "transcoders"))) == names
    found = sets_in({"mine": str(trained)})
    assert {name: list(of) for name, of in found.items()} == {
        "coefficient0": ["block0_coefficient0", "block1_coefficient0"],
        "coefficient0.5": ["block0_coefficient0.5", "block1_coefficient0.5"],
    }
    several = sets_in({"a": str(trained), "b": str(trained)})
    assert list(several) == ["a/coefficient0", "a/coefficient0.5", "b/coefficient0", "b/coefficient0.5"]
    assert folders_in(str(trained / "transcoders" / "block0_coefficient0")) == {}
    assert folders_in("hf://owner/repo") == {}


def test_a_set_that_is_alone_in_its_folder_has_its_name(tmp_path):
    for block in (0, 1):
        transcoder(tmp_path / "mine" / f"block{block}", block)
        transcoder(tmp_path / "seeds" / f"block{block}_pairs_seed3", block)
    assert list(sets_in({"mine": str(tmp_path / "mine")})) == ["mine"]
    assert list(sets_in({"s": str(tmp_path / "seeds")})) == ["s"]


def test_all_of_a_set_is_measured(result):
    assert result.complete
    assert [of.name for of in result.measured] == ["coefficient0", "coefficient0.5"]
    for of in result.measured:
        assert of.blocks == [0, 1]
        assert of.missing == []
        assert [(r.blocks, r.errors) for r in of.replaced] == [
            ([0], False),
            ([1], False),
            ([0, 1], False),
            ([0, 1], True),
        ]
        exact = of.of([0, 1], errors=True)
        assert exact is not None
        assert exact.logits_error < 1e-4
        assert sum(exact.kl) == pytest.approx(0, abs=1e-4)
        assert exact.agreed == [15] * 6
        assert {(c.block, c.change, c.errors) for c in of.changes} == {
            (block, kind, errors) for block in (0, 1) for kind in ("input", "feature") for errors in (False, True)
        }
        assert all(len(s.error) == 2 for c in of.changes for s in c.stages)


def test_the_tables_hold_all_of_it(result):
    text = tables(result)
    for part in (
        "| coefficient0 | all 2 |",
        "| coefficient0 | all, with error nodes |",
        "| coefficient0.5 | one (mean of 2) |",
        "| set | block | change | error nodes | 0.5 times | 1 times |",
        "coefficient0.5: each transcoder by itself, and alone in its layer's place.",
    ):
        assert part in text
    of = result.measured[0]
    everything = of.of([0, 1])
    change = over_prompts([([a - b for a, b in zip(everything.ce, result.ce_clean, strict=True)], [15.0] * 6)])
    assert f"| coefficient0 | all 2 | {change.mean:.3f}" in text
    assert tables(result.model_copy(update={"measured": []})) == "Nothing is measured.\n"


@pytest.mark.bitwise("the same measurements of the same files in one process round alike")
def test_stopped_it_resumes_and_a_changed_transcoder_is_told(result, hub, trained, tmp_path):
    wanted = config(hub, {"t": str(trained)})

    def stop(note: str) -> None:
        if note == "coefficient0: changes at block 1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(wanted, tmp_path, note=stop)
    measurement = measurement_of(wanted)
    there = open_result(measurement, wanted, tmp_path, False)
    assert measurement.progress(there) == (3, 8)
    resumed = measure(wanted, tmp_path)
    assert resumed.measured == result.measured
    assert resumed.ce_clean == result.ce_clean
    assert read_result(tmp_path / "result.json", SetResult) == resumed
    of = there.measured[0]
    layers = [of.layers[0].model_copy(update={"digest": "sha256:other"}), *of.layers[1:]]
    with pytest.raises(UsageError, match="coefficient0: block0_coefficient0 has changed since"):
        measurement.found(there.with_set(of.model_copy(update={"layers": layers})), wanted)


def test_layers_that_are_missing_are_named_and_keep_their_mlps(hub, tmp_path, capsys):
    transcoder(tmp_path / "set" / "block1", 1)
    found = measure(config(hub, {"set": str(tmp_path / "set")}), tmp_path / "out")
    (of,) = found.measured
    assert (of.blocks, of.missing) == ([1], [0])
    assert "set: no transcoder of block 0, whose MLPs stay as they are" in capsys.readouterr().err
    assert "Blocks without a transcoder keep their MLP: set has none of block 0." in tables(found)


def test_what_cannot_be_measured_says_why(hub, tmp_path):
    for name, blocks, widths in (
        ("deeper", (0, 2), (16, 16)),
        ("wider", (0, 1), (16, 8)),
        ("twice", (0, 0), (16, 16)),
        ("nameless", (0, None), (16, 16)),
    ):
        for place, (block, width) in enumerate(zip(blocks, widths, strict=True)):
            transcoder(tmp_path / name / f"block{place}", block, width)
    cases = [
        ("deeper", r"block1: the transcoder says blocks.2.mlp.hook_in: the model has no hook"),
        ("wider", "the transcoder of block 1 maps 8 to 8 and the layer 16 to 16"),
        ("twice", "block1 and block0 are both of block 0: a set has one transcoder for each layer"),
        ("nameless", "block1 does not say which layer it replaces"),
    ]
    for name, match in cases:
        with pytest.raises(UsageError, match=match) as error:
            measure(config(hub, {name: str(tmp_path / name)}), tmp_path / "out")
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()
    transcoder(tmp_path / "one" / "block0", 0)
    with pytest.raises(UsageError, match="one has no transcoder of blocks 1, 5"):
        measure(config(hub, {"one": str(tmp_path / "one")}, changed_blocks=[5, 1, 0]), tmp_path / "out")


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"doses": [0.5]}, "one of them is 1"),
        ({"doses": [-1.0, 1.0]}, "doses are positive"),
        ({"effect_prompts": 9}, "choose at most 6, the number of held-out prompts"),
        ({"rows": {"skip_first": 15}}, "skip_first=15 leaves too little"),
    ],
)
def test_bad_settings_are_refused(hub, trained, changed, match):
    with pytest.raises(UsageError, match=match):
        config(hub, {"t": str(trained)}, **changed)


def command(hub: dict[str, Any], out: Path, *args: str, model: list[str] | None = None) -> Any:
    model = ["--model", hub["model"]["name"]] if model is None else model
    given = [*model, "--text", hub["text"]["files"][0], "--prompts", "4", "--context-size", "16"]
    return CliRunner().invoke(app, ["measure", *given, "--out", str(out), *args])


def test_the_command_measures_what_train_has_written_and_shows_it_again(hub, trained, tmp_path):
    first = command(hub, tmp_path / "out", str(trained), model=[])  # the files name the model
    assert first.exit_code == 0, first.output
    assert "| coefficient0.5 | all 2 |" in first.stdout
    assert "[8/8] coefficient0.5: changes at block 1" in first.stderr
    again = command(hub, tmp_path / "out", str(trained), model=[])
    assert again.stdout == first.stdout
    assert "shown again" in again.stderr
    quick = command(hub, tmp_path / "quick", str(trained / "transcoders"), "--quick")
    assert quick.exit_code == 0, quick.output
    assert "error nodes | 0.1 times" not in quick.stdout
    every = command(hub, tmp_path / "every", str(trained), "--change-layers", "all")
    assert every.exit_code == 0, every.output
    assert "[8/8]" in every.stderr
    one = command(hub, tmp_path / "one", str(trained / "transcoders" / "block1_coefficient0"))
    assert one.exit_code == 0, one.output
    assert "mean ablation" in one.stdout


def test_the_command_refuses_in_a_line(hub, trained, tmp_path):
    transcoder(tmp_path / "foreign" / "block0", 0, model="EleutherAI/pythia-160m")
    single = str(trained / "transcoders" / "block0_coefficient0")
    for message, args in (
        ("measure sets by themselves, and single transcoders by themselves", (str(trained), single)),
        ("--hook-in is for transcoders of one layer", (str(trained), "--hook-in", "blocks.0.mlp.hook_in")),
        ("is a transcoder of the model EleutherAI/pythia-160m", (str(tmp_path / "foreign"),)),
        ("context_size 65 is longer than the model, which has 64 positions", (str(trained), "--context-size", "65")),
        ("--prompts: Input should be greater than or equal to 2", (str(trained), "--prompts", "1")),
        ("--change-layers: 'two' names no blocks", (str(trained), "--change-layers", "two")),
        ("has no transcoder of block 7, whose output is to be changed", (str(trained), "--change-layers", "0,7")),
        ("--change-layers is for sets, folders of transcoders", (single, "--change-layers", "0")),
    ):
        result = command(hub, tmp_path / "out", *args)
        fails(result, 2, message)
        assert not (tmp_path / "out").exists()
