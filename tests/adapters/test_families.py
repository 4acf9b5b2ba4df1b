from typing import Any

import pytest
import torch
from families import FAMILIES, Family
from oracles import central_difference
from torch import Tensor, nn

from faithfulness_plugin import layer_jvp
from faithfulness_plugin.adapters.huggingface import layer_between, mlp_layer
from faithfulness_plugin.jacobian.mlp_weights import checked_mlp_weights
from faithfulness_plugin.layer import double_vjp


def carried(model: nn.Module, first: str, last: str, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The rows that two modules are given and put out, by hooks of torch's own."""
    seen: list[Tensor] = []

    def keep(tensor: Any) -> None:
        seen.append((tensor[0] if isinstance(tensor, tuple) else tensor).detach().flatten(0, -2).clone())

    handles = [
        model.get_submodule(first).register_forward_pre_hook(lambda module, args: keep(args[0])),
        model.get_submodule(last).register_forward_hook(lambda module, args, output: keep(output)),
    ]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return seen[0], seen[1]


def family(name: str) -> tuple[Family, nn.Module, Tensor, Tensor]:
    found = FAMILIES[name]
    model = found.model()
    return found, model, *carried(model, found.first, found.last or found.first, found.inputs())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_layer_of_every_family_is_what_the_model_computes(name):
    found, model, x, y = family(name)
    layer = mlp_layer(model, found.block)
    assert (layer.hook_in, layer.hook_out) == (found.first + ".input", found.last or found.first)
    torch.testing.assert_close(layer(x), y)
    v = torch.randn_like(x)
    Jv, weights = layer_jvp(layer, x, v)[1], checked_mlp_weights(layer, x)
    torch.testing.assert_close(Jv, double_vjp(layer, x, v)[1], rtol=1e-5, atol=1e-6)
    assert (weights is not None) == found.closed_form
    if weights is not None:
        torch.testing.assert_close(Jv, central_difference(layer, x, v), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(weights.output(3 * v), layer(3 * v))
        torch.testing.assert_close(weights.jacobian(x).jvp(v), Jv)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_layer_between_the_ends_of_the_mlp_is_the_mlp(name):
    found, model, x, y = family(name)
    layer = layer_between(model, found.first + ".input", found.last or found.first)
    x, y, v = x[:3], y[:3], torch.randn_like(x[:3])
    torch.testing.assert_close(layer(x), y)
    torch.testing.assert_close(layer_jvp(layer, x, v)[1], layer_jvp(mlp_layer(model, found.block), x, v)[1])
