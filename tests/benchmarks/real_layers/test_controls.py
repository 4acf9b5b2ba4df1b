from pathlib import Path
from typing import Any

import pytest
import torch
from real_layer_runs import PERMUTED, TERMS, bench_of, config, run
from sae_lens import SAE

from faithfulness_plugin import metrics
from faithfulness_plugin.benchmarks.real_layers.analysis import floor_with, value
from faithfulness_plugin.benchmarks.real_layers.experiment import TRANSCODERS
from faithfulness_plugin.benchmarks.real_layers.permuted_layer import weights_of
from faithfulness_plugin.benchmarks.real_layers.schema import FloorOf, RealLayersResult
from faithfulness_plugin.jacobian.exact import layer_jacobian
from faithfulness_plugin.measure.relative_errors import delta_ce, fvu, jacobian_error
from faithfulness_plugin.transcoders.skip import attachable

pytestmark = pytest.mark.usefixtures("as_installed")


def test_the_mean_jacobian_is_that_of_the_training_rows(hub, stores, tmp_path):
    arms = [{"skip": True}, {"skip": True, "control": "constant map"}, {"skip": True, "control": "frozen skip"}]
    result = run(config(hub, arms=arms), tmp_path, stores)
    bench = bench_of(result.config, tmp_path, stores)
    layer, store = bench.layer(1), bench.stores[1, False]
    x = torch.cat([store.read_shard(i, None)["x"] for i in range(store.index.n_shards)])
    mean = layer_jacobian(layer.layer, x).mean(0)
    constant, frozen = (load(tmp_path, result, i) for i in (1, 2))
    for matrix in (layer.mean.matrix, constant.W_skip, frozen.W_skip):
        torch.testing.assert_close(matrix, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(constant(x).mean(0), layer.layer(x).mean(0), rtol=1e-4, atol=1e-4)
    assert result.trained[1].l0 == 0
    assert value(result, result.trained[1], jacobian_error("data")) == pytest.approx(
        value(result, result.trained[1], floor_with("mean Jacobian", "data")), rel=1e-3
    )  # without features it stands at its floor
    assert value(result, result.trained[1], floor_with("no skip", "data")) == pytest.approx(1)


def test_floors_are_given_without_and_with_a_skip_connection(hub, stores, tmp_path):
    """Those of the same number of active features without a skip connection, and beside the mean Jacobian."""
    arms = [{}, {"skip": True}, {**TERMS[-1], "skip": True}]
    result = run(config(hub, arms=arms), tmp_path, stores)
    layer = bench_of(result.config, tmp_path, stores).layer(1)
    assert result.trained[0].floors is not None
    assert result.trained[0].floor == result.trained[0].floors["no skip"]
    rows, mean = (layer.held_out.for_jacobians.x, layer.held_out.rows.x), layer.mean.matrix
    for i, of in enumerate(result.trained[1:], 1):
        transcoder = load(tmp_path, result, i)
        with torch.no_grad():
            matrices: dict[FloorOf, torch.Tensor] = {"mean Jacobian": mean, "no skip": torch.zeros_like(mean)}
            for floor, matrix in matrices.items():
                transcoder.W_skip.copy_(matrix)
                expected = metrics.jacobian_floor(transcoder, layer.layer, rows[0], among=rows[1])
                assert value(result, of, floor_with(floor, "data")) == pytest.approx(
                    expected.relative_error_data, rel=1e-3
                )


@pytest.mark.exact("the model's weights and rows are put back, not made again")
def test_the_permuted_layer_is_measured_in_the_permuted_model_at_the_real_rows(hub, stores, tmp_path):
    arms = [{"skip": True}, *({"layer": "permuted", **arm} for arm in PERMUTED)]
    result = run(config(hub, arms=arms), tmp_path, stores)
    bench = bench_of(result.config, tmp_path, stores)
    (permuted,), (real,) = result.permuted, result.layers
    assert permuted.ce_clean != real.ce_clean
    of = next(t for t in result.trained if t.arm.layer == "permuted" and t.arm.is_control and t.arm.skip)
    before = weights_of(bench.mlps[1]).W_out.clone()
    with bench.as_it_is(of.run) as layer:
        assert not torch.equal(weights_of(layer.layer).W_out, before)
        assert torch.equal(layer.held_out.rows.x, bench.layer(1).held_out.rows.x)
        transcoder = SAE.load_from_disk(tmp_path / TRANSCODERS / of.run.folder)
        alone = metrics.reconstruction(transcoder, layer.layer, layer.held_out.rows.x)
        assert value(result, of, fvu) == pytest.approx(alone.fvu, rel=1e-4)
        assert layer.held_out.evaluator.without("transcoder")[0] == pytest.approx(permuted.ce_clean)
    assert torch.equal(weights_of(bench.mlps[1]).W_out, before)


def test_losses_by_prompt_add_up(hub, stores, tmp_path):
    result = run(config(hub, arms=[{}]), tmp_path, stores)
    (of,), (layer,) = result.trained, result.layers
    assert of.spliced is not None
    n = of.spliced.tokens * len(of.spliced.ce)
    assert n == 4 * 15
    assert sum(of.spliced.ce) / n == pytest.approx(of.ce, rel=1e-5)
    assert sum(of.spliced.kl) / n == pytest.approx(of.kl, rel=1e-5)
    assert sum(of.spliced.ce_clean) / n == pytest.approx(layer.ce_clean, rel=1e-5)
    assert sum(of.spliced.ce_zero) / n == pytest.approx(layer.ce_zero, rel=1e-5)
    assert value(result, of, delta_ce) == pytest.approx(of.ce - layer.ce_clean, abs=1e-4)


def load(out: Path, result: RealLayersResult, i: int) -> Any:
    return attachable(SAE.load_from_disk(out / TRANSCODERS / result.trained[i].run.folder))
