"""Training on rows x and f(x) beside the layer's weights is training on the layer itself, for any matching."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import GatedMlp, random_transcoder
from sae_lens.saes.sae import TrainStepInput
from torch import Tensor, nn

from faithfulness_plugin import JacobianMatching, train_transcoder
from faithfulness_plugin.jacobian.matching_config import DATA, ISOTROPIC
from faithfulness_plugin.layers import known_layer
from faithfulness_plugin.layers.known_layer import KnownLayer
from faithfulness_plugin.metrics import jacobian_error
from faithfulness_plugin.store import DerivativeStore, StoredRows, StoreError
from faithfulness_plugin.store.rows import StoredRows as Rows
from faithfulness_plugin.transcoders.base import TrainingTranscoder

N_STEPS = 12
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "gated": lambda: GatedMlp(5, 7, 4),
    "Sequential": lambda: nn.Sequential(nn.Linear(5, 12), nn.GELU(), nn.Linear(12, 4)),
}
MATCHED: list[dict[str, Any]] = [
    {"probe": "pair"},
    {"probe": "difference", "n_probes": 2, "normalize": False},
    {"probe": "gaussian", "gate_bandwidth": 0.3},
    {"probe": "rademacher", "jitter": 0.1},
    {"estimator": "secant", "probe": "pair"},
    {"estimator": "secant", "probe": "difference", "n_probes": 2, "radius": 0.2, "central": True},
    {"estimator": "secant", "probe": "sphere", "radius": 0.3},
    {"estimator": "vjp", "probe": "sphere", "n_probes": 2},
    {"estimator": "exact", "probe": "pair"},
    {"estimator": "exact", "probe": "rademacher"},
]


def store_of(folder: Path, layer: nn.Module, dtype: str = "float64", n: int = 30) -> DerivativeStore:
    """Three shards of rows in the layer's dtype."""
    made = DerivativeStore.create(
        folder, source={}, d_in=5, d_out=4, products=[], n_shards=3, dtype=dtype, weights=True
    )
    exact = next(layer.parameters()).dtype
    with made.writing():
        for number in range(3):
            generator = torch.Generator().manual_seed(number)
            made.fill_shard(number, torch.randn(n + number, 5, dtype=exact, generator=generator), layer)
    return made


def rows_of(store: DerivativeStore, config: dict[str, Any] | None = None) -> StoredRows:
    return StoredRows(store, config, batch_size=16, window=2, seed=4)


def student(architecture: str, config: dict[str, Any] | None, **fields: Any) -> TrainingTranscoder[Any]:
    torch.manual_seed(2)
    coefficient = 0.0 if config is None else 0.7
    fields = {"jacobian": config or {}, "jacobian_coefficient": coefficient, "d_sae": 24, "skip": True, **fields}
    return random_transcoder(architecture, **fields)


def trained(transcoder: TrainingTranscoder[Any], layer: Any, inputs: Iterator[Tensor], **options: Any) -> list[Tensor]:
    options = {"n_steps": N_STEPS, "log_every": 1, "progress": False, **options}
    result = train_transcoder(transcoder, layer, inputs, lr=1e-2, batch_size=16, **options)
    losses = [torch.tensor(list(record.values()), dtype=torch.float64) for record in result.history]
    return [*(weight.detach().double() for weight in transcoder.parameters()), *losses]


def inputs_of(store: DerivativeStore) -> Iterator[Tensor]:
    return (batch[:, :5].contiguous() for batch in rows_of(store))


def assert_same(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("architecture", ["standard", "topk"])
@pytest.mark.parametrize("config", MATCHED, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_every_step_is_that_on_the_layer(tmp_path, name, config, architecture):
    layer = LAYERS[name]().double().requires_grad_(False)
    store = store_of(tmp_path, layer)
    rows = rows_of(store, config)
    from_rows = trained(student(architecture, config), rows.layer, rows)
    on_layer = trained(student(architecture, config), layer, inputs_of(store))
    assert_same(from_rows, on_layer, 1e-10)
    assert not torch.allclose(from_rows[0], next(student(architecture, config).parameters()).detach())


@pytest.mark.parametrize("config", [None, *MATCHED[:1], *MATCHED[2:3], *MATCHED[4:5]], ids=str)
def test_every_step_in_single_precision_is_that_on_the_layer_up_to_rounding(tmp_path, config):
    layer = LAYERS["gated"]().float().requires_grad_(False)
    store = store_of(tmp_path, layer, "float32")
    rows = rows_of(store)
    from_rows = trained(student("topk", config, dtype="float32"), rows.layer, rows)
    on_layer = trained(student("topk", config, dtype="float32"), layer, inputs_of(store))
    assert_same(from_rows, on_layer, 1e-4)


@settings(max_examples=60)
@given(data=st.data())
def test_any_estimator_and_probe_gives_the_targets_of_the_layer(tmp_path_factory, data):
    estimator = data.draw(st.sampled_from(["jvp", "secant", "vjp", "exact"]))
    config: dict[str, Any] = {
        "estimator": estimator,
        "probe": data.draw(st.sampled_from(ISOTROPIC if estimator == "vjp" else (*ISOTROPIC, *DATA))),
        "n_probes": data.draw(st.integers(1, 3)),
        "central": data.draw(st.booleans()),
        "radius": data.draw(st.sampled_from([0.05, 0.5, 2.0])),
        "normalize": data.draw(st.booleans()),
        "seed": data.draw(st.integers(0, 5)),
    }
    torch.manual_seed(data.draw(st.integers(0, 3)))
    layer = LAYERS[data.draw(st.sampled_from(sorted(LAYERS)))]().double().requires_grad_(False)
    rows = rows_of(store_of(tmp_path_factory.mktemp("store"), layer, n=8), config)
    x, y, *_ = rows.layer.unpack(next(rows))
    known = rows.layer.known
    assert known is not None
    found, expected = JacobianMatching(config).targets(known, x, y=y), JacobianMatching(config).targets(layer, x)
    for name in ("x", "y", "v", "Jv", "step", "scale"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-10)


@pytest.mark.exact("copies of the same numbers")
def test_the_layer_is_asked_in_closed_form_and_its_output_is_the_stored_one(tmp_path, monkeypatch):
    rows = rows_of(store_of(tmp_path, LAYERS["gated"]().double()))
    transcoder = student("topk", {"estimator": "secant", "probe": "pair"}).set_layer(rows.layer)
    asked, real = [], KnownLayer.secant

    def spy(self: KnownLayer, *args: Any, **options: Any) -> Any:
        asked.append((options["y"], options["along"]))
        return real(self, *args, **options)

    monkeypatch.setattr(known_layer.KnownLayer, "secant", spy)
    batch = next(rows)
    output = transcoder.training_forward_pass(TrainStepInput(batch, {"jacobian": 0.7}, None, 0, False))
    ((y, along),) = asked
    assert torch.equal(y, batch[:, 5:])
    assert along is not None
    assert torch.equal(output.sae_in, batch[:, 5:])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "config", [{"probe": "pair"}, {"estimator": "secant", "probe": "pair", "radius": 0.01}], ids=str
)
def test_rounded_rows_are_asked_about_as_they_are(tmp_path, monkeypatch, dtype, config):
    """A short step would make much of the error of a rounded f(x): the layer is asked again where x is now."""
    layer = LAYERS["gated"]().float().requires_grad_(False)
    rows = rows_of(store_of(tmp_path, layer, dtype), config)
    batch = next(rows)
    x = batch[:, :5].float()
    expected = JacobianMatching(config).targets(layer, x)
    transcoder, seen = student("topk", config, dtype="float32").set_layer(rows.layer), []
    real = JacobianMatching.targets

    def spy(*args: Any, **options: Any) -> Any:
        seen.append(real(*args, **options))
        return seen[-1]

    monkeypatch.setattr(JacobianMatching, "targets", spy)
    output = transcoder.training_forward_pass(TrainStepInput(batch, {"jacobian": 0.7}, None, 0, False))
    torch.testing.assert_close(seen[0].Jv, expected.Jv, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(output.sae_in, batch[:, 5:].float(), rtol=0, atol=0)
    torch.testing.assert_close(output.sae_in, layer(x), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_training_on_rounded_rows_is_nearly_training_on_the_layer(tmp_path, dtype):
    layer = LAYERS["Sequential"]().float().requires_grad_(False)
    exact, rounded = store_of(tmp_path / "exact", layer, "float32"), store_of(tmp_path / dtype, layer, dtype)
    losses = []
    for store in (exact, rounded):
        rows, transcoder = rows_of(store), student("standard", {"probe": "pair"}, dtype="float32")
        result = train_transcoder(transcoder, rows.layer, rows, n_steps=40, log_every=40, batch_size=16, progress=False)
        losses.append(result.loss)
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_estimator_probe_and_coefficient_are_chosen_after_the_store_is_filled(tmp_path):
    store = store_of(tmp_path, LAYERS["gated"]().double())
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    for config in (None, *MATCHED):
        for given_ in (None, config):  # what the rows are read with does not matter
            rows = rows_of(store, given_)
            student("topk", config).set_layer(rows.layer)
            assert rows.layer.widths == [5, 4]
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == sizes


def test_the_stored_layer_can_be_called_and_measured(tmp_path):
    layer = LAYERS["gated"]().double().requires_grad_(False)
    rows = rows_of(store_of(tmp_path, layer))
    transcoder, x = student("topk", {"probe": "pair"}).set_layer(rows.layer), torch.randn(9, 5, dtype=torch.float64)
    torch.testing.assert_close(transcoder.layer(x), layer(x))
    torch.testing.assert_close(transcoder.target(x), layer(x))
    ours, theirs = jacobian_error(transcoder, transcoder.layer, x), jacobian_error(transcoder, layer, x)
    assert ours.relative_error == pytest.approx(theirs.relative_error)
    assert "StoredLayer(weights=MlpWeights(" in repr(rows.layer)


def test_rows_without_derivatives_and_without_weights_are_refused_as_before(tmp_path):
    made = DerivativeStore.create(tmp_path, source={}, d_in=5, d_out=4, products=[], n_shards=1)
    with made.writing():
        made.fill_shard(0, torch.randn(20, 5), LAYERS["gated"]().float())
    with pytest.raises(StoreError, match="keeps no derivatives for jvp pair"):
        rows_of(made, {"probe": "pair"})
    transcoder = student("topk", {"probe": "pair"})
    with pytest.raises(ValueError, match=r"derivatives for None .* or from a store with weights=True"):
        transcoder.set_layer(rows_of(made).layer)
    with pytest.raises(ValueError, match="has no layer to call"):
        _ = student("topk", None).set_layer(rows_of(made).layer).layer


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
@pytest.mark.parametrize("config", [{"probe": "pair"}, {"probe": "gaussian"}], ids=str)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, config):
    store = store_of(tmp_path / "store", LAYERS["gated"]().double())

    def run(name: str, rows: Iterator[Tensor]) -> list[Tensor]:
        options = {"checkpoint": tmp_path / name, "checkpoint_every": 4, "resume": True}
        return trained(student("topk", config), rows_of(store).layer, rows, **options)

    class Stopping(Rows):
        def __next__(self) -> Tensor:
            if self.batch == 6:
                raise KeyboardInterrupt
            return super().__next__()

    whole = run("whole", rows_of(store))
    with pytest.raises(KeyboardInterrupt):
        run("parts", Stopping(store, None, batch_size=16, window=2, seed=4))
    resumed = run("parts", rows_of(store))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(whole, resumed, strict=True))


def test_processes_read_their_shares(tmp_path):
    store = store_of(tmp_path, LAYERS["gated"]().double())
    alone = list(islice(StoredRows(store, None, batch_size=16), 5))
    shares = [list(islice(StoredRows(store, None, batch_size=16, rank=r, processes=2), 5)) for r in range(2)]
    for n, batch in enumerate(alone):
        torch.testing.assert_close(torch.cat([shares[0][n], shares[1][n]]), batch, rtol=0, atol=0)
