import pytest
import torch
from torch import nn

from faithfulness_plugin.benchmarks.real_layers.arms import Arm
from faithfulness_plugin.benchmarks.real_layers.kinds import Kind
from faithfulness_plugin.benchmarks.real_layers.layer_init import begin_at_layer
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.layers.layer_weights import MlpWeights
from faithfulness_plugin.transcoders.seeded import made_with_seed


def mlp(gated: bool) -> MlpWeights:
    draw = torch.randn
    return MlpWeights(draw(4, 6), draw(6, 5), nn.functional.silu, W_gate=draw(4, 6) if gated else None)


@pytest.mark.exact("one draw is copied")
@pytest.mark.parametrize("gated", [False, True])
def test_features_begin_at_neurons_with_the_norms_of_the_default_draw(gated):
    cfg = Arm().config(Kind(sparsity=2), d_in=4, d_out=5, d_sae=9, device="cpu")
    drawn, found, weights = made_with_seed(cfg, 0), made_with_seed(cfg, 0), mlp(gated)
    begin_at_layer(found, weights)
    reads = weights.W_gate if weights.W_gate is not None else weights.W_in
    cosines = nn.functional.cosine_similarity(found.W_enc[:, :6], reads, dim=0)
    torch.testing.assert_close(cosines, torch.ones(6))
    torch.testing.assert_close(nn.functional.cosine_similarity(found.W_dec[:6], weights.W_out), torch.ones(6))
    torch.testing.assert_close(found.W_enc.norm(dim=0), drawn.W_enc.norm(dim=0))
    torch.testing.assert_close(found.W_dec.norm(dim=1), drawn.W_dec.norm(dim=1))
    assert torch.equal(found.W_enc[:, 6:], drawn.W_enc[:, 6:])
    assert torch.equal(found.W_dec[6:], drawn.W_dec[6:])
    assert found.W_enc.requires_grad


def test_a_dictionary_without_room_for_the_neurons_is_refused():
    cfg = Arm().config(Kind(sparsity=2), d_in=4, d_out=5, d_sae=5, device="cpu")
    with pytest.raises(UsageError, match="the layer has 6 neurons and d_sae=5: choose d_sae >= 6"):
        begin_at_layer(made_with_seed(cfg, 0), mlp(False))
