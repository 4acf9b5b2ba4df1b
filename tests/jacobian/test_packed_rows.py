from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import jacobian_by_rows, random_transcoder
from sae_lens.saes.sae import TrainStepInput
from torch import Tensor

from faithfulness_plugin import JacobianMatching, layer_jvp, train_transcoder
from faithfulness_plugin.jacobian.estimators.secant import layer_secant
from faithfulness_plugin.jacobian.layer_response import LayerResponse
from faithfulness_plugin.jacobian.matching_config import JacobianMatchingConfig, as_config
from faithfulness_plugin.jacobian.packed_rows import PackedRows
from faithfulness_plugin.layers.derivatives import Layer, layer_vjp
from faithfulness_plugin.layers.layer_weights import RankOneSum
from faithfulness_plugin.store import DerivativeStore, StoredRows
from faithfulness_plugin.transcoders.base import TrainingTranscoder

CONFIGS: list[dict[str, Any]] = [
    {},
    {"probe": "difference", "n_probes": 2},
    {"probe": "pair", "normalize": False},
    {"estimator": "secant", "probe": "gaussian", "n_probes": 2},
    {"estimator": "secant", "probe": "difference", "radius": 0.3},
    {"estimator": "secant", "probe": "rademacher", "central": True},
]
VJP: dict[str, Any] = {"estimator": "vjp", "probe": "sphere", "n_probes": 2}


def says(d_in: int, d_out: int, n: int, vjp: bool, rows: int = 3) -> LayerResponse:
    probe, answer = (d_out, d_in) if vjp else (d_in, d_out)
    shapes = [(rows, d_in), (rows, d_out), (n, rows, probe), (n, rows, answer)]
    return LayerResponse(*(torch.randn(shape, dtype=torch.float64) for shape in shapes), step=0.25)


@given(d_in=st.integers(1, 5), d_out=st.integers(1, 5), n=st.integers(1, 4), vjp=st.booleans())
def test_what_is_packed_is_unpacked(d_in, d_out, n, vjp):
    config = JacobianMatchingConfig(estimator="vjp" if vjp else "jvp", n_probes=n)
    layout, given_ = PackedRows(d_in, d_out, config, step=0.25), says(d_in, d_out, n, vjp)
    packed = layout.pack(given_)
    assert packed.shape == (3, sum(layout.widths))
    for there, here in zip(layout.unpack(packed), given_, strict=True):
        torch.testing.assert_close(there, here, rtol=0, atol=0)


@pytest.mark.exact("copies of the same numbers")
def test_rows_without_derivatives_are_inputs_and_outputs():
    layout, (x, y, *_) = PackedRows(5, 4), says(5, 4, 1, False)
    assert torch.equal(layout.pack(LayerResponse(x, y)), torch.cat([x, y], dim=-1))
    found = layout.unpack(layout.pack(LayerResponse(x, y)))
    assert (found.v, found.Jv) == (None, None)
    with pytest.raises(ValueError, match="bring no derivatives: read them from the store"):
        JacobianMatching().targets_of(found)


def test_rows_of_another_width_are_named():
    with pytest.raises(ValueError, match=r"the rows are 9 wide and x, .* make 18: take layer and rows from one store"):
        PackedRows(5, 4, JacobianMatchingConfig()).unpack(torch.zeros(2, 9))


def test_targets_of_what_was_said_are_those_of_the_layer_asked(mlp):
    for config in ({}, {"probe": "pair", "n_probes": 3}, {"estimator": "vjp"}, {"estimator": "secant"}):
        matching, x = JacobianMatching(config), torch.randn(8, 5, dtype=torch.float64)
        asked = matching.targets(mlp, x)
        again = matching.targets_of(LayerResponse(x, mlp(x).detach(), asked.v, asked.Jv, float(asked.step)))
        for there, here in zip(asked[:-1], again[:-1], strict=True):  # stored probes are no rows' differences
            torch.testing.assert_close(here, there, check_dtype=False)
    with pytest.raises(ValueError, match="pass a batch of two rows or more"):
        matching.targets_of(says(5, 4, 1, False, rows=1))


def test_the_matrix_of_a_sum_of_rank_one_terms_has_its_products():
    h, W_in, W_out, v = (torch.randn(shape, dtype=torch.float64) for shape in ((3, 7), (5, 7), (7, 4), (3, 5)))
    J = RankOneSum(h, W_in, W_out)
    torch.testing.assert_close(J.matrix() @ v[..., None], J.jvp(v)[..., None])
    torch.testing.assert_close(J.matrix()[1], sum(h[1, m] * W_out[m].outer(W_in[:, m]) for m in range(7)))


@pytest.fixture
def stored(tmp_path, mlp) -> DerivativeStore:
    return store_of(tmp_path, mlp, "float64")


def store_of(folder: Path, layer: Layer, dtype: str) -> DerivativeStore:
    made = DerivativeStore.create(folder, source={}, d_in=5, d_out=4, products=[*CONFIGS, VJP], n_shards=3, dtype=dtype)
    with made.writing():
        for number in range(3):
            made.fill_shard(number, torch.randn(20, 5, dtype=torch.float64), layer)
    return made


def student(architecture: str, config: dict[str, Any] | None, **fields: Any) -> TrainingTranscoder[Any]:
    torch.manual_seed(2)
    fields = {"jacobian": config, "jacobian_coefficient": 0.0 if config is None else 0.7, "d_sae": 24, **fields}
    return random_transcoder(architecture, **fields)


def rows_of(stored: DerivativeStore, config: dict[str, Any] | None) -> StoredRows:
    return StoredRows(stored, config, batch_size=16, window=2, seed=4)


def trained(transcoder: TrainingTranscoder[Any], layer: Any, inputs: Iterator[Tensor], **options: Any) -> list[Tensor]:
    schedule = {"n_steps": 30, "lr": 1e-2, "lr_warm_up_steps": 0, "lr_decay_steps": 0, "batch_size": 16, **options}
    train_transcoder(transcoder, layer, inputs, progress=False, **schedule)
    return [weight.detach() for weight in transcoder.parameters()]


class AskedAnew(Iterator[Tensor]):
    """The same inputs alone; and a matching that asks a layer for its derivatives there, along the same probes."""

    def __init__(self, rows: StoredRows, config: dict[str, Any]) -> None:
        self.rows, self.now = rows, None
        radius = {"radius": rows.layer.step} if config.get("estimator") == "secant" else {}
        self.matching = JacobianMatching(**{**config, **radius, "probe": self.probe})

    def __next__(self) -> Tensor:
        self.now = self.rows.layer.unpack(next(self.rows))
        return self.now.x

    def probe(self, x: Tensor, n_probes: int, generator: torch.Generator | None) -> Tensor:
        assert self.now is not None
        assert self.now.v is not None
        assert torch.equal(x, self.now.x)
        assert len(self.now.v) == n_probes
        return self.now.v


@pytest.mark.exact("copies of the same numbers")
@pytest.mark.parametrize("architecture", ["standard", "topk"])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_training_on_stored_rows_is_training_on_the_layer(stored, mlp, architecture, config):
    rows, anew = rows_of(stored, config), AskedAnew(rows_of(stored, config), config)
    from_rows, start = student(architecture, config, skip=True), student(architecture, config, skip=True)
    on_layer = student(architecture, config, skip=True)
    on_layer.matching = anew.matching
    pairs = zip(trained(from_rows, rows.layer, rows), trained(on_layer, mlp, anew), start.parameters(), strict=True)
    for packed, asked, before in pairs:
        torch.testing.assert_close(packed, asked, rtol=0, atol=1e-10)
        assert not torch.equal(packed, before)


@pytest.mark.parametrize("architecture", ["standard", "topk"])
@pytest.mark.parametrize("config", [*CONFIGS, VJP], ids=str)
def test_training_on_stored_rows_is_a_plain_loop_that_calls_the_layer(stored, mlp, architecture, config):
    off = {"sparsity_coefficient": 0.0} if architecture == "standard" else {"aux_loss_coefficient": 0.0}
    rows, ours, plain = rows_of(stored, config), student(architecture, config, **off), student(architecture, config)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-2)
    matching, full = JacobianMatching(config), as_config(config)
    for batch in islice(rows_of(stored, config), 30):
        x, _, v, _, step, *_ = rows.layer.unpack(batch)
        assert v is not None
        if full.estimator == "secant":
            y, Jv = layer_secant(mlp, x, v, step, central=full.central)
        else:
            y, Jv = (layer_vjp if full.estimator == "vjp" else layer_jvp)(mlp, x, v)
        unit = (y - y.mean(0)).square().sum(-1).mean() / Jv.square().sum(-1).mean()
        scale = unit if full.normalize else torch.tensor(1.0)
        targets = LayerResponse(x, y, v, Jv, torch.tensor(step, dtype=x.dtype), scale)
        loss = (plain(x) - y).square().sum(-1).mean() + 0.7 * matching.from_targets(plain, targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
    for packed, asked in zip(trained(ours, rows.layer, rows), plain.parameters(), strict=True):
        torch.testing.assert_close(packed, asked.detach(), rtol=0, atol=1e-10)


def test_without_a_jacobian_term_inputs_and_outputs_are_enough(stored, mlp):
    rows = rows_of(stored, None)
    inputs = (batch[:, :5] for batch in rows_of(stored, None))
    from_rows, on_layer = trained(student("topk", None), rows.layer, rows), trained(student("topk", None), mlp, inputs)
    for packed, asked in zip(from_rows, on_layer, strict=True):
        torch.testing.assert_close(packed, asked, rtol=0, atol=1e-10)
    student("standard", None).set_layer(rows_of(stored, VJP).layer)  # what it does not match may be there


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", [*CONFIGS, VJP], ids=str)
def test_a_step_on_rows_in_lower_precision_is_nearly_the_same(tmp_path, mlp, dtype, config):
    torch.manual_seed(0)
    x = torch.randn(20, 5, dtype=torch.float64)
    losses = []
    for kept in (dtype, "float64"):
        made = DerivativeStore.create(
            tmp_path / kept, source={}, d_in=5, d_out=4, products=[config], n_shards=1, dtype=kept
        )
        with made.writing():
            made.fill_shard(0, x, mlp)
        rows = StoredRows(made, config, batch_size=20)
        transcoder = student("standard", config, dtype="float32").set_layer(rows.layer)
        step = TrainStepInput(next(rows), {"jacobian": 0.7, "sparsity": 0.0}, None, 0, False)
        output = transcoder.training_forward_pass(step)
        output.loss.backward()
        assert output.loss.dtype == torch.float32
        losses.append({name: loss.item() for name, loss in output.losses.items()})
    assert losses[0] == pytest.approx(losses[1], rel=0.05 if dtype == "bfloat16" else 1e-4)


def test_rows_with_other_derivatives_are_refused(stored):
    for config in (
        {"n_probes": 2},
        {"probe": "sphere"},
        {"estimator": "exact"},
        {"jitter": 0.1},
        {"estimator": "secant"},
    ):
        with pytest.raises(ValueError, match=r"the rows bring derivatives for .* read the rows with"):
            student("standard", config).set_layer(rows_of(stored, {}).layer)
    with pytest.raises(ValueError, match="bring derivatives for None"):
        student("standard", {}).set_layer(rows_of(stored, None).layer)
    student("standard", {"seed": 5, "normalize": False, "gate_bandwidth": 0.1}).set_layer(rows_of(stored, {}).layer)
    secant = rows_of(stored, CONFIGS[4]).layer
    with pytest.raises(ValueError, match=r"'radius': 0\.3"):
        student("standard", {**CONFIGS[4], "radius": 0.5}).set_layer(secant)


def test_the_layer_itself_is_not_at_hand(stored):
    rows = rows_of(stored, {})
    transcoder = student("standard", {}).set_layer(rows.layer)
    with pytest.raises(ValueError, match="learns from stored rows, so it has no layer to call"):
        _ = transcoder.layer
    with pytest.raises(ValueError, match="no layer to call"):
        transcoder.target(torch.zeros(2, 5).double())
    with pytest.raises(ValueError, match="the rows are 5 wide"):
        trained(transcoder, rows.layer, iter(torch.zeros(2, 16, 5).double()))
    with pytest.raises(ValueError, match="the transcoder expects"):
        trained(student("standard", {}, d_out=3), rows.layer, rows)


def test_the_derivatives_of_stored_rows_are_the_layers(stored, mlp):
    rows = rows_of(stored, {})
    x, _, v, Jv, *_ = rows.layer.unpack(next(rows))
    assert v is not None
    assert Jv is not None
    J = torch.stack([jacobian_by_rows(mlp, row) for row in x])
    torch.testing.assert_close(Jv[0], torch.einsum("noi,ni->no", J, v[0]))
