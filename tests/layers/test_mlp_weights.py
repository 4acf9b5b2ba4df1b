import pytest
import torch
from oracles import GatedMlp, jacobian_by_rows
from torch import nn
from transformer_lens import HookedTransformerConfig
from transformer_lens.components.mlps.gated_mlp import GatedMLP
from transformer_lens.components.mlps.mlp import MLP

from faithfulness_plugin import AbsNetwork
from faithfulness_plugin.layers.comparison import same_rows
from faithfulness_plugin.layers.layer_weights import MlpWeights
from faithfulness_plugin.layers.mlp_weights import checked_mlp_weights, mlp_weights


def sequential(act: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 7), act or nn.GELU(), nn.Linear(7, 4)).double()


def transformer_lens_mlp(gated: bool, act_fn: str = "gelu") -> nn.Module:
    config = HookedTransformerConfig(
        n_layers=1, d_model=5, n_ctx=8, d_head=5, d_mlp=7, act_fn=act_fn, gated_mlp=gated, dtype=torch.float64
    )
    mlp = (GatedMLP if gated else MLP)(config)
    for name, weight in mlp.named_parameters():
        nn.init.normal_(weight, std=0.0 if gated and name == "b_in" else 0.5)
    return mlp


def rows() -> torch.Tensor:
    return torch.randn(6, 5, dtype=torch.float64)


@pytest.mark.parametrize(
    "layer",
    [
        sequential(),
        GatedMlp(5, 7, 4),
        GatedMlp(5, 7, 4).forward,
        AbsNetwork(5).double(),
        transformer_lens_mlp(gated=False),
        transformer_lens_mlp(gated=True),
    ],
    ids=["Sequential", "HuggingFace", "bound method", "AbsNetwork", "TransformerLens", "TransformerLens gated"],
)
def test_weights_that_are_found_give_the_layers_values_and_jacobians(layer):
    x = rows()
    weights = checked_mlp_weights(layer, x)
    assert weights is not None
    torch.testing.assert_close(weights.output(x), layer(x))
    h, W_in, W_out, *_ = weights.jacobian(x)
    J = torch.einsum("mo,nm,im->noi", W_out, h, W_in)
    torch.testing.assert_close(J, torch.stack([jacobian_by_rows(layer, row) for row in x]))


class Scaled(GatedMlp):
    """Looks like a gated MLP and is not quite one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x / x.norm(dim=-1, keepdim=True))


class Memorising(AbsNetwork):
    """|x|, but for one point of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + torch.relu(10 * x.sum(-1, keepdim=True) - 29)


@pytest.mark.parametrize(
    "layer",
    [
        lambda x: x.abs(),
        nn.Sequential(nn.Linear(5, 4)).double(),
        sequential(nn.Softmax(dim=-1)),  # not elementwise
        Scaled(5, 7, 4),
        sequential().float(),
        nn.Linear(5, 4).double(),
    ],
    ids=["lambda", "one layer", "softmax", "a norm inside", "another dtype", "Linear"],
)
def test_what_is_not_such_an_mlp_is_opaque(layer):
    assert checked_mlp_weights(layer, rows()) is None


def test_one_row_that_is_treated_in_another_way_is_enough_to_be_opaque():
    layer, x = Memorising(5).double(), 0.3 * rows()
    x[5] = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])
    assert checked_mlp_weights(layer, x[:5]) is not None
    assert checked_mlp_weights(layer, x) is None


def test_a_class_of_ones_own_can_register(mlp):
    assert mlp_weights(mlp) is None  # it has names of its own

    @mlp_weights.register(type(mlp))
    def _(layer):
        return MlpWeights(layer.up.weight.T, layer.down.weight.T, nn.functional.silu, layer.up.bias, layer.down.bias)

    assert checked_mlp_weights(mlp, rows()) is not None
    mlp_weights.register(type(mlp), lambda layer: None)


def test_rows_are_compared_one_by_one_beside_a_massive_one():
    theirs = torch.randn(20, 8)
    theirs[0] *= 1000
    assert same_rows(theirs * (1 + 1e-6), theirs)
    ours = theirs.clone()
    ours[3] *= 1.04
    assert not same_rows(ours, theirs)
    assert not same_rows(torch.ones(20, 8), torch.zeros(20, 8))
    assert same_rows(torch.zeros(20, 8), torch.zeros(20, 8))
