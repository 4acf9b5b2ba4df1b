"""What works without SAELens, which does not support transformer-lens 4 yet: run in an environment with that version
(`make test-adapters`), and in the usual one."""

from collections.abc import Callable

import pytest
import torch
from tiny_models import HUGGING_FACE, NO_MLP_WEIGHTS, bridge, native_bridge, tokens
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from faithfulness_plugin import AbsInputs, AbsNetwork, JacobianMatching, layer_jvp, layer_vjp, metrics
from faithfulness_plugin.adapters.transformer_lens import TransformerLensHooks, layer_between, mlp_layer
from faithfulness_plugin.layers.mlp_weights import mlp_weights

pytestmark = pytest.mark.usefixtures("as_installed")


def row_jacobians(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """[rows, d_out, d_in], a row at a time by autograd."""
    return torch.stack([jacobian(lambda row: function(row[None])[0], row) for row in x])  # pyright: ignore


@pytest.mark.works("the absolute-value network as a HookedRootModule")
def test_the_absolute_value_network_and_its_hooks():
    net, x = AbsNetwork(6), next(AbsInputs(6, batch_size=32))
    y, cache = net.run_with_cache(x)
    torch.testing.assert_close(y, x.abs(), rtol=0, atol=0)
    torch.testing.assert_close(cache["hook_post"], torch.cat([x, -x], 1).relu()[:, _order(net, x)], rtol=0, atol=0)
    zeroed = net.run_with_hooks(x, fwd_hooks=[("hook_post", lambda acts, hook: 0 * acts)])
    assert not zeroed.any()


def _order(net: AbsNetwork, x: Tensor) -> Tensor:
    """Where each hidden neuron's pre-activation stands in [x, -x]."""
    _, cache = net.run_with_cache(x)
    both, pre = torch.cat([x, -x], 1), cache["hook_pre"]
    return (both.T[None] == pre.T[:, None]).all(-1).float().argmax(1)


@pytest.mark.works("layers of a TransformerBridge, with their derivatives")
@pytest.mark.parametrize("family", [*HUGGING_FACE, None])
def test_a_bridge_gives_the_layer_that_its_model_runs(family):
    model = native_bridge() if family is None else bridge(family)
    layer = mlp_layer(model, 1)
    hooks, seen = TransformerLensHooks(model), dict[str, Tensor]()
    names = (layer.hook_in, layer.hook_out)
    hooks.run(tokens(), {name: lambda a, name=name: seen.update({name: a.detach().clone()}) for name in names})
    x, y = (seen[name].flatten(0, -2) for name in names)
    torch.testing.assert_close(layer(x), y)
    J = row_jacobians(layer, x)
    v, u = torch.randn_like(x), torch.randn_like(y)
    torch.testing.assert_close(layer_jvp(layer, x, v)[1], torch.einsum("roi,ri->ro", J, v))
    torch.testing.assert_close(layer_vjp(layer, x, u)[1], torch.einsum("roi,ro->ri", J, u))
    if family is not None and family not in NO_MLP_WEIGHTS:
        assert mlp_weights(layer) is not None
    torch.testing.assert_close(layer_between(model, *names)(x), y)


class Student(nn.Module):
    """A transcoder of nobody's, with the attributes that metrics read."""

    def __init__(self, d: int, d_sae: int) -> None:
        super().__init__()
        self.W_enc = nn.Parameter(torch.randn(d, d_sae, dtype=torch.float64))
        self.W_dec = nn.Parameter(torch.randn(d_sae, d, dtype=torch.float64) / d_sae)

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.W_enc).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(x) @ self.W_dec


@pytest.mark.works("Jacobian matching and the Jacobian error of any module")
def test_matching_and_its_metric_are_those_of_autograd():
    layer, student = mlp_layer(bridge("llama"), 0), Student(16, 24)
    x = torch.randn(12, 16, dtype=torch.float64)
    of_layer = row_jacobians(layer, x)
    error = of_layer - row_jacobians(student, x)
    relative = metrics.jacobian_error(student, layer, x).relative_error
    assert relative == pytest.approx((error.square().sum() / of_layer.square().sum()).item(), rel=1e-6)
    loss = JacobianMatching(estimator="exact", normalize=False)(student, layer, x)
    torch.testing.assert_close(loss, error.square().sum((1, 2)).mean())
    loss.backward()
    assert student.W_enc.grad is not None
    assert student.W_enc.grad.abs().sum() > 0
