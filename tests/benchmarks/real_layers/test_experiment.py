import json
from typing import Any

import pytest
import tiny_hub
import torch
from real_layer_runs import AUGMENTED, COST, GATES, PERMUTED, TERMS, bench_of, config, run
from sae_lens import SAE
from safetensors.torch import load_file

from faithfulness_plugin import metrics
from faithfulness_plugin.benchmarks.real_layers import training
from faithfulness_plugin.benchmarks.real_layers.analysis import value
from faithfulness_plugin.benchmarks.real_layers.experiment import TRANSCODERS, RealLayers
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.language_model import loaded as model_module
from faithfulness_plugin.language_model.model import load_model
from faithfulness_plugin.layers.any_model import mlp_layer
from faithfulness_plugin.measure.relative_errors import fvu, jacobian_error, jacobian_floor, response_error
from faithfulness_plugin.results.experiment import open_result
from faithfulness_plugin.results.schema import ResultError, read_result
from faithfulness_plugin.store import DerivativeStore, StoreError

pytestmark = pytest.mark.usefixtures("as_installed")


def test_every_arm_of_every_kind_runs(hub, tmp_path):
    kinds = [
        {"architecture": architecture, "sparsity": sparsity}
        for architecture, sparsity in (("topk", 4), ("batch_topk", 4), ("relu", 0.1), ("jumprelu", 4))
    ]
    arms = [{}, *TERMS, GATES, *AUGMENTED, {"control": "layer init"}, {"control": "extra compute"}]
    arms += [{**arm, "skip": True} for arm in arms]
    arms += [{"skip": True, "control": control} for control in ("constant map", "frozen skip")]
    arms += [{**TERMS[-1], "skip": True, "control": "frozen skip"}]
    arms += [{"layer": "permuted", **arm} for arm in PERMUTED]
    wanted = config(hub, kinds=kinds, arms=arms, d_sae=40, tokens=64, stored_dtype="float16")
    notes: list[str] = []
    result = run(wanted, tmp_path / "out", tmp_path / "stores", note=notes.append)
    assert result.complete
    assert [t.run for t in result.trained] == wanted.runs()
    trained = [of for of in wanted.runs() if of.arm.control != "constant map"]
    assert [note for note in notes if note.startswith("training")] == [f"training: {of.name}" for of in trained]
    assert read_result(tmp_path / "out" / "result.json", RealLayersResult) == result
    assert len(list((tmp_path / "out" / TRANSCODERS).iterdir())) == len(result.trained)
    assert not list((tmp_path / "out" / "checkpoints").iterdir())
    index = DerivativeStore.open(tmp_path / "stores" / "block1").index
    assert [path.name for path in (tmp_path / "stores").iterdir()] == ["block1"]  # one store for all of them
    assert (index.products, index.weights) == ([], True)
    for of in result.trained:
        assert (of.seconds is None) == (of.peak_memory is None) == (of.arm.control == "constant map")


def test_the_numbers_are_those_of_the_files(hub, stores, tmp_path):
    """The exported transcoder, on the held-out prompts, by the metrics themselves."""
    wanted = config(hub, jacobian_rows=15, response_rows=15, distances=[0.5])
    result = run(wanted, tmp_path, stores)
    model = load_model(wanted.model, "cpu")
    layer, trained = mlp_layer(model, 1), result.trained[-1]
    transcoder = SAE.load_from_disk(tmp_path / TRANSCODERS / trained.run.folder)
    bench = bench_of(result.config, tmp_path, stores)
    x = bench.layer(1).held_out.rows.x
    alone = metrics.reconstruction(transcoder, layer, x)
    assert value(result, trained, fvu) == pytest.approx(alone.fvu, rel=1e-4)
    assert trained.l0 == pytest.approx(alone.l0)
    exact = metrics.jacobian_error(transcoder, layer, x)
    for directions, expected in {
        "isotropic": exact.relative_error,
        "data": exact.relative_error_data,
        "difference": exact.relative_error_difference,
    }.items():
        assert value(result, trained, jacobian_error(directions)) == pytest.approx(expected, rel=1e-3)  # pyright: ignore[reportArgumentType]
    v = bench.layer(1).held_out.directions["difference"]
    curve = metrics.response(transcoder, layer, x, v, [0.5])
    assert value(result, trained, response_error("difference")) == pytest.approx(curve.error[0], rel=1e-3)
    assert trained.response_cosine["difference"] == pytest.approx([curve.cosine[0]], rel=1e-3)
    floor = metrics.jacobian_floor(transcoder, layer, x)
    assert value(result, trained, jacobian_floor("data")) == pytest.approx(floor.relative_error_data, rel=1e-3)
    assert transcoder.cfg.metadata.hook_name_out == layer.hook_out


def test_directions_are_those_of_all_rows_where_jacobians_are_taken_at_some(hub, tmp_path, stores):
    result = run(config(hub, arms=[{}]), tmp_path, stores)
    bench = bench_of(result.config, tmp_path, stores)
    held_out, layer = bench.layer(1).held_out, bench.layer(1).held_out.layer
    transcoder = SAE.load_from_disk(tmp_path / TRANSCODERS / result.trained[0].run.folder)
    x, among = held_out.for_jacobians.x, held_out.rows.x
    assert len(x) < len(among)
    exact = metrics.jacobian_error(transcoder, layer, x, among=among)
    assert value(result, result.trained[0], jacobian_error("data")) == pytest.approx(
        exact.relative_error_data, rel=1e-3
    )
    floor = metrics.jacobian_floor(transcoder, layer, x, among=among)
    found = value(result, result.trained[0], jacobian_floor("difference"))
    assert found == pytest.approx(floor.relative_error_difference, rel=1e-3)


def test_more_seeds_and_arms_are_added_to_those_that_exist(hub, tmp_path, stores):
    one = run(config(hub), tmp_path, stores)
    assert one.complete
    two = run(config(hub, seeds=2), tmp_path, stores)
    assert two.complete
    assert two.trained[:2] == one.trained
    assert [trained.seed for trained in two.trained] == [0, 0, 1, 1]
    assert two.trained[2].error != one.trained[0].error
    larger = config(hub, seeds=2, blocks=[1, 0], arms=[{}, TERMS[-1], {"skip": True}], line=[{"sparsity": 8}])
    three = run(larger, tmp_path, stores)
    assert three.complete
    assert three.trained[:4] == two.trained
    assert {trained.run for trained in three.trained} == set(larger.runs())
    assert [layer.block for layer in three.layers] == [1, 0]
    assert [rows.hook_in for rows in three.rows] == ["blocks.1.mlp.hook_in", "blocks.0.mlp.hook_in"]
    with pytest.raises(ResultError, match="has runs that these settings leave out"):
        run(config(hub), tmp_path, stores)


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_it_goes_on_where_it_was_stopped(hub, tmp_path, monkeypatch):
    stores = tmp_path / "stores"
    wanted = config(hub, arms=[{}, *TERMS[-2:]])
    whole = run(wanted, tmp_path / "whole", stores)
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 3)
    real, trained = training.train_transcoder, []

    def stopped(transcoder: Any, layer: Any, rows: Any, **options: Any) -> Any:
        trained.append(rows.batch)
        if len(trained) == 2:  # in the midst of the second run
            serve = type(rows).__next__
            monkeypatch.setattr(type(rows), "__next__", lambda self: _stop() if self.batch == 7 else serve(self))
        return real(transcoder, layer, rows, **options)

    with monkeypatch.context() as within:
        within.setattr(training, "train_transcoder", stopped)
        serving = training.StoredRows.__next__
        with pytest.raises(KeyboardInterrupt):
            run(wanted, tmp_path / "parts", stores)
        monkeypatch.setattr(training.StoredRows, "__next__", serving)
    parts = read_result(tmp_path / "parts" / "result.json", RealLayersResult)
    assert len(parts.trained) == 1
    (checkpoint,) = (tmp_path / "parts" / "checkpoints").iterdir()
    assert [path.name for path in checkpoint.iterdir()] == ["step_6"]
    again = run(wanted, tmp_path / "parts", stores)
    for one, other in zip(whole.trained, again.trained, strict=True):
        assert one.model_dump(exclude=COST) == other.model_dump(exclude=COST)
        ours, theirs = (load_file(tmp_path / o / TRANSCODERS / one.run.folder / "sae_weights.safetensors")
                        for o in ("whole", "parts"))  # fmt: skip
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def _stop() -> Any:
    raise KeyboardInterrupt


def test_a_complete_result_needs_no_model(hub, stores, tmp_path, monkeypatch):
    result = run(config(hub), tmp_path, stores)
    monkeypatch.setattr(model_module, "load_model", lambda *_: pytest.fail("the model is not needed"))
    assert run(config(hub), tmp_path, stores) == result


def test_the_passage_is_repeated_where_it_should_be(hub, tmp_path):
    passage = {"text": "ab ae ai", "share": 0.2, "blocks": [1], "arms": [{}]}
    result = run(config(hub, passage=passage), tmp_path / "out", tmp_path / "stores")
    plain, repeated = (DerivativeStore.open(tmp_path / "stores" / n) for n in ("block1", "block1_passage"))
    assert repeated.index.n_rows == pytest.approx(plain.index.n_rows / 0.8, rel=0.01)
    assert [t.repeated for t in result.trained] == [False, False, True]
    assert all(t.passage is not None for t in result.trained)  # also where it was not repeated: that is the control
    assert "repeated" in repeated.index.source
    assert "repeated" not in plain.index.source


def test_another_text_is_refused_and_nothing_touched(hub, stores, tmp_path):
    run(config(hub), tmp_path / "one", stores)
    before = {path: path.stat().st_mtime_ns for path in stores.rglob("*.safetensors")}
    for changed, message in (
        ({"seed": 3}, r"something else \(text .* not "),
        ({"stored_dtype": "float16"}, "dtype float32, not float16"),
    ):
        with pytest.raises(StoreError, match=message):
            run(config(hub, **changed), tmp_path / json.dumps(changed)[:9], stores)
    assert {path: path.stat().st_mtime_ns for path in stores.rglob("*.safetensors")} == before


def test_what_is_not_to_be_had(hub, tmp_path):
    for changed, message in (
        ({"blocks": [7]}, "blocks: there is no block 7"),
        ({"arms": [{}, {"control": "layer init"}]}, "the layer has 32 neurons and d_sae=24: choose d_sae >= 32"),
        ({"keep": "derivatives"}, "choose keep: rows"),
        ({"stored_prompts": 10**6}, "prompts of 16 tokens, and 1000072 are needed: give more text, or ask for fewer"),
    ):
        with pytest.raises(UsageError, match=message):
            run(config(hub, **changed), tmp_path / message[:6], tmp_path / "stores")


def test_stores_of_another_model_are_refused(hub, stores, tmp_path):
    run(config(hub), tmp_path / "one", stores)
    other = tiny_hub.write_hub(tmp_path / "hub")
    changed = {"model": {**other["model"], "dtype": "float32"}, "text": other["text"]}
    with pytest.raises(StoreError, match=r"is a store of something else .*model"):
        run(config(hub, **changed), tmp_path / "two", stores)
    assert not (tmp_path / "two" / "result.json").exists()


def test_other_settings_are_not_mixed_in(hub, stores, tmp_path):
    run(config(hub), tmp_path, stores)
    with pytest.raises(ResultError, match="other settings"):
        open_result(RealLayers(), config(hub, lr=1e-3), tmp_path, False)
