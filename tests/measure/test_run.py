"""Finished transcoders from folders to tables, on a tiny model."""

from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import tiny_hub
import torch
from command_line import fails
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from faithfulness_plugin import (
    StandardTrainingTranscoder,
    StandardTrainingTranscoderConfig,
    TopKTrainingTranscoder,
    TopKTrainingTranscoderConfig,
)
from faithfulness_plugin.cli.app import app
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.layers.earlier_blocks import EarlierBlocks
from faithfulness_plugin.layers.hooks import Hooks
from faithfulness_plugin.measure.card import card
from faithfulness_plugin.measure.config import PARTS, ArtifactConfig
from faithfulness_plugin.measure.report import relative_error, tables
from faithfulness_plugin.measure.run import Measurement
from faithfulness_plugin.measure.schema import ROLES, ArtifactResult
from faithfulness_plugin.measure.verdict import verdict
from faithfulness_plugin.results.experiment import Running, complete, open_result
from faithfulness_plugin.results.schema import ResultError, read_result
from faithfulness_plugin.results.settings_file import make_config
from faithfulness_plugin.transcoders.load import load_each, load_transcoder

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


def measurement_of(wanted: ArtifactConfig) -> Measurement:
    return Measurement(load_each(wanted.transcoders, **wanted.reading))


def measure(wanted: ArtifactConfig, out: Path, **how: Any) -> ArtifactResult:
    return complete(measurement_of(wanted), wanted, out, **how)


@pytest.fixture(scope="module")
def result(hub, tmp_path_factory) -> ArtifactResult:
    out = tmp_path_factory.mktemp("whole")
    wanted = config(hub, ("plain", "other"))
    return measure(wanted, out)


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
    mean, layer = result.of("plain", "mean ablation"), result.layer
    for parts, whole in ((mean.error, layer.variance), (mean.jacobian_error["data"], layer.jacobian["data"])):
        error = relative_error(parts, whole)
        assert error is not None
        assert error.mean == pytest.approx(1, rel=1e-4)
    assert mean.top_error == pytest.approx([1, 1], rel=1e-4)
    assert mean.effects["input"][0].error == pytest.approx(1, abs=1e-4)
    assert mean.deletion is None


@pytest.mark.bitwise("the same measurements of the same files in one process round alike")
def test_stopped_it_goes_on_and_a_changed_transcoder_is_told(result, hub, tmp_path):
    wanted = config(hub, ("plain", "other"))

    def stop(note: str) -> None:
        if note.startswith("plain, shuffled decoder: "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(wanted, tmp_path, note=stop)
    measurement = measurement_of(wanted)
    there = open_result(measurement, wanted, tmp_path, False)
    assert len(there.measured) == 1
    resumed = measure(wanted, tmp_path)
    assert resumed.measured == result.measured
    assert read_result(tmp_path / "result.json", ArtifactResult) == resumed
    changed = [there.measured[0].model_copy(update={"digest": "sha256:other"})]
    with pytest.raises(ValueError, match="plain has changed since"):
        measurement.found(there.model_copy(update={"measured": changed}), wanted)


@pytest.mark.bitwise("the same products of the same shapes in one process")
def test_what_is_shared_changes_no_number(result, hub, tmp_path, monkeypatch):
    """Each role measured alone, by whole runs of the model, against all of them together."""
    monkeypatch.setattr(Hooks, "beginning_at", lambda hooks, name: nullcontext())
    alone = measure(config(hub, references=False), tmp_path)
    assert alone.measured == [result.of("plain")]
    assert alone.layer == result.layer
    lacking = result.model_copy(update={"measured": [*result.measured[:1], *result.measured[2:]], "complete": False})
    measurement = measurement_of(result.config)
    *_, (again, _) = measurement.run(lacking, Running(tmp_path))
    assert again.of("plain", "shuffled decoder") == result.of("plain", "shuffled decoder")


def test_runs_of_the_model_are_shared_and_begin_at_the_layer(hub, tmp_path, monkeypatch):
    runs: list[str] = []
    whole_run, noted = Hooks.run, ["setting up"]

    def run(hooks: Hooks, tokens: Any, at: Any, last: int | None = None) -> Any:
        runs.append(noted[-1])
        return whole_run(hooks, tokens, at, last)

    calls: list[str] = []
    standing = EarlierBlocks.on

    def on(earlier: EarlierBlocks, tokens: Any, names: Any = ()) -> Any:
        key = tuple(tokens.shape), tokens.numpy().tobytes()
        calls.append("passed over" if key in earlier._kept else "whole")
        return standing(earlier, tokens, names)

    monkeypatch.setattr(Hooks, "run", run)
    monkeypatch.setattr(EarlierBlocks, "on", on)
    found = measure(config(hub), tmp_path, note=noted.append)
    sizes = [len(of.deletion.sizes) for of in found.measured if of.deletion is not None]
    per_part = Counter(note.partition(": ")[2].rpartition(" (")[0] for note in runs if note.startswith("plain, "))
    assert per_part == {
        "in the layer's place": 2 + 3,  # as it is, with zeros, with each of the three; all four prompts in one run
        "effects": 1 + 3 + 3 * 3,  # the largest features; without a change and with both, in the model and with each
        "deletion": sum(2 + 2 * n for n in sizes),
    }
    ours = calls[-sum(per_part.values()) :]
    assert ours.count("whole") == 1  # the prompts are run on as a whole once


def test_progress_says_which_part_begins_and_how_much_is_done(hub, tmp_path):
    notes, within, wanted = list[str](), list[float](), config(hub)
    measurement = measurement_of(wanted)
    fresh = measurement.fresh(wanted)
    runs = measurement.run(fresh, Running(tmp_path, note=notes.append, within=within.append))
    first = next(grown for grown, line in runs if line)
    assert within == sorted(within)  # the bar goes forward, and not back when the part ends
    assert within[-1] == pytest.approx(measurement.work_left(fresh) - measurement.work_left(first))
    parts = [note for note in notes if note.startswith("plain, transcoder: ")]
    assert parts == [
        f"plain, transcoder: {part} ({n + 1} of 7)"
        for n, part in enumerate(
            [
                "in the layer's place",
                "outputs and Jacobians",
                "the Jacobian's floor",
                "steps",
                "first directions",
                "effects",
                "deletion",
            ]
        )
    ]


def test_a_verdict_says_in_words_what_the_tables_say(result):
    said, layer, of = verdict(result, "plain"), result.layer, result.of("plain")
    fvu = relative_error(of.error, layer.variance)
    along = relative_error(of.jacobian_error["difference"], layer.jacobian["difference"])
    floor = relative_error(of.floor["difference"], layer.jacobian["difference"])
    assert fvu is not None
    assert along is not None
    assert floor is not None
    keeps = f"{1 - along.mean:.0%}" if along.mean < 1 else f"nothing (error {along.mean:.2f})"
    assert said == (
        f"plain has FVU {fvu.mean:.3f}, L0 {of.l0:.1f}; along differences of data it keeps {keeps} of the layer's "
        f"Jacobian (at most {1 - floor.mean:.0%} at this L0); in the layer's place it costs "
        f"{of.ce - layer.ce_clean:.3f} nats a token (zeros cost {layer.ce_zero - layer.ce_clean:.3f})"
    )
    assert f"{said}.\n" in tables(result)


@pytest.mark.bitwise("the same products of the same shapes in one process")
def test_a_quick_look_is_the_same_measurement_with_less_and_says_what_is_left_out(result, hub, tmp_path):
    wanted = config(hub, left_out=[*PARTS], distances=[0.5], references=False)
    quick, whole = measure(wanted, tmp_path), result.of("plain")
    (of,) = quick.measured
    same = ("error", "l0", "jacobian_error", "floor", "ce", "kl", "spliced")
    assert {name: getattr(of, name) for name in same} == {name: getattr(whole, name) for name in same}
    assert (of.top, of.top_error, of.effects, of.deletion) == ([], [], {}, None)
    text = tables(quick)
    assert "Left out: first directions, effects, deletion, references." in text
    assert "Jacobian error in the first" not in text
    assert "block: cosine" not in text
    assert "Left out" not in tables(result)
    with pytest.raises(UsageError, match="leaves out what a card shows"):
        card(quick)
    assert "left_out" not in result.config.model_dump()
    # the same settings but for what is left out: a whole measurement is not taken for done
    with pytest.raises(ResultError, match=r"references False, not True; left_out \['first directions', .*\], not \[\]"):
        measure(config(hub, distances=[0.5]), tmp_path)


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
    result = measure(wanted, tmp_path / "out")
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
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (UsageError, "Their metadata say None: pass --layer", {"transcoders": nameless}),
        (ValueError, "wide maps 8 to 8 and the layer 16 to 16", {"transcoders": nameless, "block": 1}),
        (UsageError, "block 7", {"block": 7, "transcoders": nameless}),
        (UsageError, "was asked for, and the transcoder says", {"hook_in": "blocks.1.hook_resid_pre"}),
        (UsageError, "the model has no hook a", {"hook_in": "a", "hook_out": "b", "block": 1}),
        (ValueError, "of layer 1, and layer=0 was asked for", {"block": 0}),
    ]
    for error, match, changed in cases:
        with pytest.raises(error, match=match):
            measure(config(hub, **changed), tmp_path / "out", overwrite=True)


def command(hub: dict[str, Any], out: Path, *args: str, model: list[str] | None = None) -> Any:
    model = ["--model", hub["model"]["name"]] if model is None else model
    given = [
        *model,
        "--text",
        hub["text"]["files"][0],
        "--prompts",
        "4",
        "--context-size",
        "16",
    ]
    return CliRunner().invoke(app, ["measure", *given, "--out", str(out), *args])


def test_the_command_measures_shows_and_shows_again(hub, tmp_path):
    given = (f"mine={hub['folder'] / 'plain'}",)
    first = command(hub, tmp_path, *given)
    assert first.exit_code == 0, first.output
    assert "Jacobian error in the first 1, 4, 16 |" in first.stdout  # the model is 16 wide: 64 directions there are not
    assert "[3/3] mine, mean ablation" in first.stderr
    again = command(hub, tmp_path, *given)
    assert again.stdout == first.stdout
    assert "shown again" in again.stderr


def test_bad_arguments_say_what_to_do(hub, tmp_path):
    plain = str(hub["folder"] / "plain")
    for message, args in (
        ("does not exist", (str(tmp_path / "nothing"),)),
        ("there is a plain already", (plain, f"plain={plain}")),
        ("--hooks-anyway", (plain, "--hook-in", "blocks.1.hook_resid_pre")),
        ("layer=0 was asked for", (plain, "--block", "0")),
        ("--prompts: Input should be greater than or equal to 2", (plain, "--prompts", "1")),
    ):
        fails(command(hub, tmp_path / "out", *args), 2, message)
    assert not (tmp_path / "out").exists()


def test_the_model_is_what_the_transcoders_name(hub, tmp_path):
    transcoder = load_transcoder(hub["folder"] / "plain")
    for name, model_name in (("mine", hub["model"]["name"]), ("foreign", "EleutherAI/pythia-160m")):
        transcoder.cfg.metadata.model_name = model_name
        transcoder.save_model(tmp_path / name)
    done = command(hub, tmp_path / "out", str(tmp_path / "mine"), model=[])
    assert done.exit_code == 0, done.output
    assert read_result(tmp_path / "out/result.json", ArtifactResult).model == hub["model"]["name"]
    foreign = str(tmp_path / "foreign")
    fails(command(hub, tmp_path / "refused", foreign), 2, "foreign is a transcoder of the model EleutherAI/pythia-160m")
    assert not (tmp_path / "refused").exists()
    done = command(hub, tmp_path / "anyway", foreign, "--model-anyway")
    assert done.exit_code == 0, done.output
    assert "(the transcoders name EleutherAI/pythia-160m)" in done.stdout
    assert read_result(tmp_path / "anyway/result.json", ArtifactResult).config.model_named == "EleutherAI/pythia-160m"
    nameless = command(hub, tmp_path / "refused", str(hub["folder"] / "plain"), model=[])
    fails(nameless, 2, "plain does not name its model: pass --model")


def test_positions_and_norms_are_left_out_and_the_result_says_so(result, hub, tmp_path, capsys):
    wanted = config(hub, rows={"skip_first": 3, "norms_above": 1.5})
    found = measure(wanted, tmp_path)
    (rows,) = found.rows
    assert (rows.tokens, rows.positions) == (6 * 16, 6 * 3)
    assert rows.rows == rows.tokens - rows.positions - rows.special - rows.norms
    assert 0 < rows.norms < 40
    about = f"rows at blocks.1.mlp.hook_in: {rows.rows} of 96 tokens count; left out: 18 at the first positions"
    assert about in capsys.readouterr().err
    assert read_result(tmp_path / "result.json", ArtifactResult) == found
    of_some, of_all = found.of("plain"), result.of("plain")
    assert of_some is not None
    assert of_all is not None
    assert of_some.error != of_all.error
    assert [(r.positions, r.norms) for r in result.rows] == [(0, 0)]
    assert result.rows[0].special >= 6
    with pytest.raises(ResultError, match="other settings"):
        measure(config(hub), tmp_path)


def test_results_of_before_are_read_and_dumped_as_they_were(result):
    """Settings and records that are new have defaults that leave no trace: fingerprints of old results hold."""
    before = result.model_copy(update={"rows": []})
    assert "rows" not in before.model_dump()
    assert "rows" not in before.config.model_dump()
    assert ArtifactResult.model_validate_json(before.model_dump_json()) == before


def test_prompts_that_do_not_fit_the_model_leave_nothing_behind(hub, tmp_path):
    args = ["--model", hub["model"]["name"], "--text", *hub["text"]["files"], "--context-size", "65", "--prompts", "2"]
    command = ["measure", str(hub["folder"] / "plain"), *args, "--out", str(tmp_path / "out")]
    fails(CliRunner().invoke(app, command), 2, "context_size 65 is longer than the model, which has 64 positions")
    assert not (tmp_path / "out").exists()
    fails(
        CliRunner().invoke(app, [*command, "--context-size", "16", "--skip-first", "15"]), 2, "skip_first=15 leaves too"
    )
    for factor in ("0", "1"):
        fails(
            CliRunner().invoke(app, [*command, "--context-size", "16", "--exclude-norms-above", factor]),
            2,
            "greater than 1",
        )
    assert not (tmp_path / "out").exists()


def test_a_layer_without_which_the_model_does_as_well_has_no_ce_recovered_and_says_why(result):
    layer = result.layer.model_copy(update={"ce_zero": 2.0, "ce_clean": 2.1})
    numbers = [m.model_copy(update={"ce_recovered": None}) for m in result.measured]
    text = tables(result.model_copy(update={"layer": layer, "measured": numbers}))
    assert text.count("CE recovered is undefined: zeros in the layer's place do as well") == 1
    before = result.model_copy(update={"layer": layer})  # of a version that divided all the same
    assert tables(before) == text
    assert "is undefined" not in tables(result) or result.layer.ce_zero <= result.layer.ce_clean


def test_what_is_divided_by_nothing_is_left_out_of_tables(result):
    effects = {
        kind: [s.model_copy(update={"error": None, "cosine": None}) for s in stages]
        for kind, stages in result.measured[0].effects.items()
    }
    still = result.layer.model_copy(update={"variance": [0.0] * len(result.layer.variance)})
    measured = [result.measured[0].model_copy(update={"effects": effects}), *result.measured[1:]]
    text = tables(result.model_copy(update={"layer": still, "measured": measured}))
    assert "1: —, —" in text
    assert "| plain | — |" in text


def test_a_layer_that_puts_out_the_same_everywhere_is_refused_and_leaves_nothing_behind(hub, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(hub["model"]["name"])
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.zero_()
    model.save_pretrained(tmp_path / "model")
    tiny_hub.tokenizer().save_pretrained(tmp_path / "model")
    wanted = config(hub, model={"name": str(tmp_path / "model")})
    with pytest.raises(ValueError, match=r"puts out the same at all \d+ rows, so that relative errors are undefined"):
        measure(wanted, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.bitwise("the same products of the same shapes in one process")
def test_effects_and_deletion_may_have_fewer_prompts_and_sizes(result, hub, tmp_path):
    whole = result.of("plain")
    changed = {"effect_prompts": 2, "deletion_sizes": [1, 4], "references": False}
    (fewer,) = measure(config(hub, **changed), tmp_path / "fewer").measured
    of_two = {"spliced_prompts": 2, "deletion_sizes": [1, 4], "references": False}
    (two,) = measure(config(hub, **of_two), tmp_path / "two").measured
    assert fewer.deletion is not None
    assert (fewer.effects, fewer.deletion, fewer.deletion.sizes) == (two.effects, two.deletion, [1, 4])
    assert fewer.spliced == whole.spliced  # on all four prompts
    assert fewer.effects != whole.effects


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"effect_prompts": 5}, "effect_prompts: choose at most 4, the number of spliced_prompts"),
        ({"deletion_sizes": [0, 4]}, "deletion_sizes: pass numbers of features, from 1 on"),
    ],
)
def test_too_many_prompts_and_deletions_of_nothing_are_refused(hub, changed, message):
    with pytest.raises(ValueError, match=message):
        config(hub, **changed)
