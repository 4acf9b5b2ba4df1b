"""`faithfulness experiment whole-model` on a tiny model of two blocks."""

import shutil
from pathlib import Path

import pytest
import tiny_hub
import torch
import yaml
from command_line import fails
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from faithfulness_plugin.attribution import replaced_layers
from faithfulness_plugin.attribution.truth import truth_records
from faithfulness_plugin.benchmarks.whole_model import training
from faithfulness_plugin.benchmarks.whole_model.analysis import CAUSES, FVU, PAIR_ERROR, truth
from faithfulness_plugin.benchmarks.whole_model.bench import Bench
from faithfulness_plugin.benchmarks.whole_model.config import WholeModelConfig, WholeModelOptions
from faithfulness_plugin.benchmarks.whole_model.experiment import TRANSCODERS, WholeModel
from faithfulness_plugin.cli.app import app
from faithfulness_plugin.language_model.model import load_model
from faithfulness_plugin.layers.any_model import mlp_layer
from faithfulness_plugin.metrics import jacobian_error, reconstruction
from faithfulness_plugin.results.experiment import Running, complete, open_result, write_report
from faithfulness_plugin.results.schema import ResultError
from faithfulness_plugin.results.settings_file import make_config
from faithfulness_plugin.transcoders.load import load_transcoder

pytestmark = pytest.mark.usefixtures("as_installed")
KINDS = {"remove", "double", "remove token's features", "input"}


def run_of(config, name):
    return next(run for run in config.runs() if run.name == name)


def set_of(result, name):
    return next(of for of in result.sets if of.run.name == name)


@pytest.fixture(scope="module")
def bench(config, stores, tmp_path_factory) -> Bench:
    return Bench(config, stores, Running(tmp_path_factory.mktemp("unused")))


def test_every_arm_is_trained_and_measured_on_all_blocks(result, config):
    assert result.complete
    assert [of.run for of in result.sets] == config.runs()
    assert (result.blocks, result.missing) == ([0, 1], [])
    for of in result.sets:
        assert [layer.block for layer in of.layers] == [0, 1]
        assert {part.kind for part in of.truth} == KINDS
        assert all(3.9 < layer.l0 <= 4 for layer in of.layers)
        assert (of.seconds is None) == (of.arm.control == "shuffled decoders")
        assert [graph.prompt for graph in of.graphs] == [0]
        assert of.with_errors < 1e-4


def test_the_numbers_are_those_of_the_files(result, out, config, bench):
    """The exported transcoders on the held-out prompts, by the metrics and the truth test themselves."""
    of = set_of(result, "skip, jvp pair 0.5, seed 0")
    model = load_model(config.model, "cpu")
    loaded = {b: load_transcoder(out / TRANSCODERS / of.run.folder / f"block{b}").eval() for b in (0, 1)}
    alone = result.model_copy(update={"sets": [of]})
    with bench.as_it_is(of.run) as here:
        rows = [here.rows_of(block)[0] for block in (0, 1)]
    fvu = [reconstruction(loaded[b], mlp_layer(model, b), rows[b]).fvu for b in (0, 1)]
    mean = FVU.mean(alone, of.arm)
    assert mean is not None
    assert mean.mean == pytest.approx(sum(fvu) / 2, rel=1e-3)
    for block, layer in enumerate(of.layers):
        kept = bench.prompts.held_out != 0
        places = [[0, n - 1] for n in kept.sum(1).tolist()]
        starts = [0, *kept.sum(1).cumsum(0).tolist()]
        some = rows[block][[start + place for start, each in zip(starts, places, strict=False) for place in each]]
        exact = jacobian_error(loaded[block], mlp_layer(model, block), some, among=rows[block])
        found = sum(layer.jacobian_error) / sum(layer.jacobian)
        assert found == pytest.approx(exact.relative_error_data, rel=1e-3)
    kept = [torch.arange(8) > 0] * 4
    records = truth_records(
        replaced_layers(model, loaded), list(bench.prompts.truth.split(1)), kept=kept, n_each=3, n_targets=8
    )
    expected = {(r.prompt, r.kind, r.on, r.distance): r.sums.parts() for of_prompt in records for r in of_prompt}
    seen = {
        (prompt, part.kind, part.on, part.distance): sums
        for part in of.truth
        for prompt, sums in zip(part.prompts, part.sums, strict=True)
    }
    assert set(seen) == set(expected)
    for key, sums in expected.items():
        assert seen[key] == pytest.approx(sums.tolist(), rel=1e-2, abs=1e-5)


def test_inputs_are_moved_alike_in_all_arms(result):
    """Effects of inputs on logits are the model's own, whatever the transcoders are."""
    sizes = set()
    for of in result.sets:
        if of.arm.control == "permuted model":
            continue
        for part in of.truth:
            if part.kind == "input" and part.on == "logits":
                sizes.add(tuple(f"{sums[4]:.3g}" for sums in part.sums))  # mm: squares of measured effects
    assert len(sizes) == 1


def test_shuffled_decoders_take_the_arms_own_transcoders(result, out):
    own, shuffled = set_of(result, "skip, jvp pair 0.5, seed 0"), set_of(
        result, "skip, jvp pair 0.5 (shuffled decoders), seed 0"
    )  # fmt: skip
    assert own.layers == shuffled.layers
    assert not (out / TRANSCODERS / shuffled.run.folder).exists()
    number = truth("normalised error", CAUSES[0], "features")
    errors = [number.mean(result, of.arm) for of in (own, shuffled)]
    assert errors[0] is not None
    assert errors[1] is not None
    assert errors[0].mean < errors[1].mean


def test_the_permuted_model_is_another_one_and_goes_again(result, bench, config):
    before = [layer(torch.ones(1, 16)) for layer in bench.layers.values()]
    run = run_of(config, "skip, jvp pair 0.5 (permuted model), seed 0")
    with bench.as_it_is(run) as model:
        other = [layer(torch.ones(1, 16)) for layer in model.layers.values()]
    after = [layer(torch.ones(1, 16)) for layer in bench.layers.values()]
    for a, b, c in zip(before, other, after, strict=True):
        torch.testing.assert_close(a, c)
        assert (a - b).norm() > 0.1 * a.norm()
    assert result.ce_clean_permuted != result.ce_clean
    assert len(result.ce_clean_permuted) == config.held_out_prompts


def test_an_interrupted_set_keeps_the_transcoders_that_are_trained(config, stores, result, tmp_path, monkeypatch):
    trained, save = [], training._save

    def interrupted(transcoder, folder):
        if len(trained) == 3:
            raise KeyboardInterrupt
        save(transcoder, folder)
        trained.append(folder.parent.name)

    monkeypatch.setattr(training, "_save", interrupted)
    options = WholeModelOptions(stores=str(stores))
    with pytest.raises(KeyboardInterrupt):
        complete(WholeModel(), config, tmp_path, options=options)
    assert len(set(trained)) == 2
    monkeypatch.setattr(training, "_save", save)
    times = (tmp_path / TRANSCODERS / trained[2] / "block0").stat().st_mtime_ns
    complete(WholeModel(), config, tmp_path, options=options)
    assert (tmp_path / TRANSCODERS / trained[2] / "block0").stat().st_mtime_ns == times
    again = open_result(WholeModel(), config, tmp_path, overwrite=False)
    for ours, theirs in zip(again.sets, result.sets, strict=True):
        assert ours.layers == theirs.layers
        assert ours.truth == theirs.truth


def test_more_seeds_and_arms_are_added_to_a_result(settings, stores, out, result, tmp_path):
    shutil.copytree(out, tmp_path / "grown")
    more = make_config({**settings, "seeds": 2}, "here", WholeModelConfig)
    grown = complete(WholeModel(), more, tmp_path / "grown", options=WholeModelOptions(stores=str(stores)))
    assert [of.run for of in grown.sets] == [*result.config.runs(), *more.runs()[7:]]
    assert [of.seed for of in grown.sets[7:]] == [1, 1, 1]
    assert grown.sets[:7] == result.sets
    change = PAIR_ERROR.change(grown, grown.sets[2].arm, grown.sets[1].arm)
    assert change is not None
    assert change.mean < 0


def test_the_page_and_the_figure_are_written(result, tmp_path):
    write_report(WholeModel(), result, tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert page.index("Jacobian matching") < page.index("## Arm by arm") < page.index("## Numbers")
    assert (tmp_path / "truth.png").exists()
    assert WholeModel().tables(result.model_copy(update={"complete": False})).startswith("PARTIAL: 7 of 7 sets")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"blocks": [0, 7]}, "7"),
        ({"tokens": 20}, "do not make one batch"),
        ({"side_arms": [{"arm": {"skip": True}, "then": "KL"}], "arms": [{}]}, "add that arm"),
        ({"arms": [{"arm": {"skip": True, "control": "constant map"}}], "side_arms": []}, "set control beside arm"),
        ({"side_seeds": 2}, "choose at most 1, the number of seeds"),
        ({"graph_prompts": 9}, "choose at most 4, the number of truth_prompts"),
        ({"truth_tokens": 32}, "choose at most 16, the tokens of a prompt"),
        ({"rows": {"norms_above": 10.0}}, "norms_above"),
        ({"kind": {"architecture": "batch_topk", "sparsity": 4}}, "second phase"),
        ({"arms": [{}, {}], "side_arms": []}, "is given twice"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, changed, message, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump({**settings, **changed}))
    command = ["experiment", "whole-model", "--settings", str(file), "--out", str(tmp_path / "out")]
    fails(CliRunner().invoke(app, command), 2, message)


def test_stores_of_another_model_are_refused(settings, stores, result, tmp_path):
    other = tiny_hub.write_hub(tmp_path / "other")
    weights = Path(other["model"]["name"]) / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: of * 2 if "down_proj" in name else of for name, of in tensors.items()}, weights, {"format": "pt"})
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump({**settings, "model": {**other["model"], "dtype": "float32"}}))
    command = ["experiment", "whole-model", "--settings", str(file), "--out", str(tmp_path / "out")]
    fails(CliRunner().invoke(app, [*command, "--stores", str(stores)]), 2, "another")


def test_a_set_that_is_left_out_of_the_settings_is_not_dropped_in_silence(settings, out, tmp_path):
    shutil.copytree(out, tmp_path / "here")
    fewer = make_config({**settings, "side_arms": []}, "here", WholeModelConfig)
    with pytest.raises(ResultError, match="leave out"):
        open_result(WholeModel(), fewer, tmp_path / "here", overwrite=False)
