import pytest
import torch
from torch import nn

from faithfulness_plugin.benchmarks.real_layers.mean_jacobian import mean_jacobian
from faithfulness_plugin.jacobian.exact import layer_jacobian
from faithfulness_plugin.layers.layer_weights import MlpWeights
from faithfulness_plugin.layers.mlp_weights import normed_mlp
from faithfulness_plugin.layers.normed_mlp import LayerWeights
from faithfulness_plugin.layers.stored_layer import StoredLayer
from faithfulness_plugin.store import DerivativeStore


def weights(kind: str) -> LayerWeights:
    torch.manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64) / 2  # noqa: E731
    gate = {"W_gate": draw(4, 6), "b_gate": draw(6)} if kind == "gated" else {}
    mlp = MlpWeights(draw(4, 6), draw(6, 5), nn.functional.silu, draw(6), draw(5), **gate)
    if kind != "normed":
        return mlp
    normed = normed_mlp(mlp, nn.LayerNorm(5, dtype=torch.float64))
    assert normed is not None
    return normed


@pytest.mark.parametrize("kind", ["plain", "gated", "normed"])
def test_it_is_the_mean_over_all_rows(kind, tmp_path):
    of, x = weights(kind), torch.randn(23, 4, dtype=torch.float64)
    layer = StoredLayer(of)
    store = DerivativeStore.create(
        tmp_path, source={"a": "b"}, d_in=4, d_out=5, products=[], n_shards=2, dtype="float64"
    )
    with store.writing():
        for shard, rows in enumerate(x.split(12)):
            store.fill_shard(shard, rows, layer)
    found = mean_jacobian(store, of)
    torch.testing.assert_close(found.matrix, layer_jacobian(layer, x).mean(0))
    # the constant map has the layer's mean output
    torch.testing.assert_close(x.mean(0) @ found.matrix.T + found.bias, layer(x).mean(0))
