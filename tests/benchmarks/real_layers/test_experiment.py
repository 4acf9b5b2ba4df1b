import json
from pathlib import Path
from typing import Any

import pytest
import tiny_hub
import torch
from real_layers import SMALL
from sae_lens import SAE
from safetensors.torch import load_file

from faithfulness_plugin import metrics
from faithfulness_plugin.benchmarks.real_layers import experiment
from faithfulness_plugin.benchmarks.real_layers.analysis import value
from faithfulness_plugin.benchmarks.real_layers.arms import Arm
from faithfulness_plugin.benchmarks.real_layers.config import RealLayersConfig
from faithfulness_plugin.benchmarks.real_layers.experiment import TRANSCODERS, RealLayers, RealLayersOptions
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.language_model import loaded as model_module
from faithfulness_plugin.language_model import train_stored
from faithfulness_plugin.language_model.config import TrainConfigError
from faithfulness_plugin.language_model.model import load_model
from faithfulness_plugin.layers.any_model import mlp_layer
from faithfulness_plugin.measure.relative_errors import fvu, jacobian_error, jacobian_floor, response_error
from faithfulness_plugin.results.experiment import Running, complete, open_result
from faithfulness_plugin.results.schema import ResultError, read_result
from faithfulness_plugin.results.settings_file import make_config
from faithfulness_plugin.store import DerivativeStore, StoreError

pytestmark = pytest.mark.usefixtures("as_installed")

TERMS = [
    {"term": term, "probe": probe, "coefficient": 0.5}
    for term in ("jvp", "secant")
    for probe in ("isotropic", "difference", "pair")
]
GATES = {"term": "jvp", "probe": "pair", "coefficient": 0.5, "gate_bandwidth": 1.0}
CONTROLS = [{"term": "augmentation", "probe": probe, "coefficient": 0.5} for probe in ("isotropic", "difference")]


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> dict[str, Any]:
    written = tiny_hub.write_hub(tmp_path_factory.mktemp("hub"))
    model = {**written["model"], "dtype": "float32"}
    precise = {"stored_dtype": "float32", "arms": [{}, TERMS[-1]], "distances": [0.5, 1.0]}
    return {**SMALL, **precise, "model": model, "text": written["text"]}


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("stores")


def config(hub: dict[str, Any], **changed: Any) -> RealLayersConfig:
    return make_config({**hub, **changed}, "here", RealLayersConfig)


def run(wanted: RealLayersConfig, out: Path, stores: Path, **options: Any) -> RealLayersResult:
    return complete(RealLayers(), wanted, out, options=RealLayersOptions(stores=str(stores)), **options)


def bench_of(wanted: RealLayersConfig, out: Path, stores: Path) -> Any:
    return experiment._Bench(wanted, stores, Running(out))


def test_every_arm_of_every_kind_runs(hub, tmp_path):
    kinds = [
        {"architecture": architecture, "sparsity": sparsity, "skip": skip}
        for architecture, sparsity in (("topk", 4), ("relu", 0.1))
        for skip in (False, True)
    ]
    wanted = config(hub, kinds=kinds, arms=[{}, *TERMS, GATES, *CONTROLS], tokens=64)
    notes: list[str] = []
    result = run(wanted, tmp_path / "out", tmp_path / "stores", note=notes.append)
    assert result.complete
    assert [t.run for t in result.trained] == wanted.runs()
    assert notes[-len(wanted.runs()) :] == [f"training: {of.name}" for of in wanted.runs()]
    assert read_result(tmp_path / "out" / "result.json", RealLayersResult) == result
    exports = sorted((tmp_path / "out" / TRANSCODERS).iterdir())
    assert len(exports) == len(result.trained) == 4 * 10
    assert not list((tmp_path / "out" / "checkpoints").iterdir())
    by_skip = {t.kind.skip: t for t in result.trained if t.arm == Arm() and t.kind.architecture == "topk"}
    assert by_skip[True].floor != by_skip[False].floor


def test_every_arm_runs_from_rows_and_weights(hub, tmp_path):
    wanted = config(hub, arms=[{}, *TERMS, GATES, *CONTROLS], keep="rows", tokens=64)
    result = run(wanted, tmp_path / "out", tmp_path / "stores")
    assert [t.run for t in result.trained] == wanted.runs()
    index = DerivativeStore.open(tmp_path / "stores" / "block1").index
    assert (index.products, index.weights) == ([], True)
    with pytest.raises(ResultError, match="keep rows, not derivatives"):
        run(config(hub, arms=[{}, *TERMS, GATES, *CONTROLS], tokens=64), tmp_path / "out", tmp_path / "stores")


def test_the_numbers_are_those_of_the_files(hub, stores, tmp_path):
    """The exported transcoder, on the held-out prompts, by the metrics themselves."""
    wanted = config(hub, jacobian_rows=15, response_rows=15, distances=[0.5])
    result = run(wanted, tmp_path, stores)
    model = load_model(wanted.model, "cpu")
    layer, trained = mlp_layer(model, 1), result.trained[-1]
    transcoder = SAE.load_from_disk(tmp_path / TRANSCODERS / trained.run.folder)
    bench = bench_of(result.config, tmp_path, stores)
    x = bench.held_out[1].rows.x
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
    v = bench.held_out[1].directions["difference"]
    curve = metrics.response(transcoder, layer, x, v, [0.5])
    assert value(result, trained, response_error("difference")) == pytest.approx(curve.error[0], rel=1e-3)
    assert trained.response_cosine["difference"] == pytest.approx([curve.cosine[0]], rel=1e-3)
    floor = metrics.jacobian_floor(transcoder, layer, x)
    assert value(result, trained, jacobian_floor("data")) == pytest.approx(floor.relative_error_data, rel=1e-3)
    assert transcoder.cfg.metadata.hook_name_out == layer.hook_out


def test_directions_are_those_of_all_rows_where_jacobians_are_taken_at_some(hub, tmp_path, stores):
    result = run(config(hub, arms=[{}]), tmp_path, stores)
    bench = bench_of(result.config, tmp_path, stores)
    held_out, layer = bench.held_out[1], bench.held_out[1].layer
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


def test_more_seeds_go_on_from_those_that_are_there(hub, tmp_path, stores):
    one = run(config(hub), tmp_path, stores)
    assert one.complete
    two = run(config(hub, seeds=2), tmp_path, stores)
    assert two.complete
    assert two.trained[:2] == one.trained
    assert [trained.seed for trained in two.trained] == [0, 0, 1, 1]
    assert two.trained[2].error != one.trained[0].error
    with pytest.raises(ResultError, match=r"other settings \(seeds 2, not 1\)"):
        run(config(hub), tmp_path, stores)


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_it_goes_on_where_it_was_stopped(hub, tmp_path, monkeypatch):
    stores = tmp_path / "stores"
    wanted = config(hub, arms=[{}, *TERMS[-2:]])
    whole = run(wanted, tmp_path / "whole", stores)
    monkeypatch.setattr(experiment, "CHECKPOINT_EVERY", 3)
    real, trained = train_stored.train_transcoder, []

    def stopped(transcoder: Any, layer: Any, rows: Any, **options: Any) -> Any:
        trained.append(rows.batch)
        if len(trained) == 2:  # in the midst of the second run
            serve = type(rows).__next__
            monkeypatch.setattr(type(rows), "__next__", lambda self: _stop() if self.batch == 7 else serve(self))
        return real(transcoder, layer, rows, **options)

    with monkeypatch.context() as within:
        within.setattr(train_stored, "train_transcoder", stopped)
        serving = train_stored.StoredRows.__next__
        with pytest.raises(KeyboardInterrupt):
            run(wanted, tmp_path / "parts", stores)
        monkeypatch.setattr(train_stored.StoredRows, "__next__", serving)
    parts = read_result(tmp_path / "parts" / "result.json", RealLayersResult)
    assert len(parts.trained) == 1
    (checkpoint,) = (tmp_path / "parts" / "checkpoints").iterdir()
    assert [path.name for path in checkpoint.iterdir()] == ["step_6"]
    again = run(wanted, tmp_path / "parts", stores)
    for one, other in zip(whole.trained, again.trained, strict=True):
        assert one.model_dump(exclude={"seconds"}) == other.model_dump(exclude={"seconds"})
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
        ({"arms": [{}, TERMS[0]]}, "derivatives secant pair radius 0.5, and not jvp rademacher"),
    ):
        with pytest.raises(StoreError, match=message):
            run(config(hub, **changed), tmp_path / json.dumps(changed)[:9], stores)
    assert {path: path.stat().st_mtime_ns for path in stores.rglob("*.safetensors")} == before


def test_what_is_not_to_be_had(hub, tmp_path):
    for changed, message in (
        ({"blocks": [7]}, "blocks: there is no block 7"),
        ({"stored_prompts": 10**6}, "prompts of 16 tokens, and 1000072 are needed: give more text, or ask for fewer"),
    ):
        with pytest.raises(TrainConfigError, match=message):
            run(config(hub, **changed), tmp_path / message[:6], tmp_path / "stores")


def test_other_settings_are_not_mixed_in(hub, stores, tmp_path):
    run(config(hub), tmp_path, stores)
    with pytest.raises(ResultError, match="other settings"):
        open_result(RealLayers(), config(hub, lr=1e-3), tmp_path, False)
