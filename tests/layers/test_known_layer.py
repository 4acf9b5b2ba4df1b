import copy
import logging
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from oracles import GatedMlp
from tiny_models import bridge, hugging_face
from torch import nn

from faithfulness_plugin import JacobianMatching, layer_jvp
from faithfulness_plugin.jacobian.estimators.secant import layer_secant
from faithfulness_plugin.jacobian.probes import PROBES
from faithfulness_plugin.layers import known_layer
from faithfulness_plugin.layers.any_model import mlp_layer
from faithfulness_plugin.layers.known_layer import KnownLayer, LayerInUse

FAMILIES = ["llama", "gpt2", "neox", "gemma2", "olmo2", "phi"]


def sequential() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16)).double()


def layers() -> dict[str, Callable[[], Any]]:
    of_models = {f"{name} in Hugging Face": lambda name=name: mlp_layer(hugging_face(name), 1) for name in FAMILIES}
    bridged = {f"{name} in a bridge": lambda name=name: mlp_layer(bridge(name), 1) for name in ("llama", "gpt2")}
    return {"gated": lambda: GatedMlp(16, 20, 16), "sequential": sequential, **of_models, **bridged}


def rows(n: int = 12) -> torch.Tensor:
    return torch.randn(n, 16, dtype=torch.float64)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("name", layers())
@pytest.mark.parametrize("n_probes", [1, 3])
def test_a_known_layer_gives_what_the_layer_gives(name, n_probes):
    layer, x = layers()[name](), rows()
    known = LayerInUse()(layer, x)
    assert isinstance(known, KnownLayer)
    for probe in ("pair", "difference", "rademacher"):
        matching = JacobianMatching(probe=probe, n_probes=n_probes)
        along = matching.estimator.draw_along(x, torch.Generator().manual_seed(0))
        v = PROBES[probe](x, n_probes, torch.Generator().manual_seed(0))
        for ours, theirs in zip(known.jvp(x, v, along), layer_jvp(layer, x, v), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(known.jvp(x, v, along, layer(x).detach())[1], layer_jvp(layer, x, v)[1])
        for central in (False, True):
            ours = known.secant(x, v, 0.4, central=central, along=along)
            theirs = layer_secant(layer, x, v, 0.4, central=central)
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(known(x), layer(x))


def test_weights_that_change_are_read_anew():
    layer, x, use = sequential(), rows(), LayerInUse()
    assert isinstance(use(layer, x), KnownLayer)
    with torch.no_grad():
        cast(nn.Linear, layer[0]).weight.mul_(2)
    layer[2].weight = nn.Parameter(torch.randn(16, 24, dtype=torch.float64))
    known = use(layer, x)
    assert isinstance(known, KnownLayer)
    torch.testing.assert_close(known.jvp(x, x)[1], layer_jvp(layer, x, x)[1])


class AddsItsInput(nn.Sequential):
    """Looks like an MLP, and is one until something is switched on."""

    on = False

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) + self.on * input


def test_a_layer_that_becomes_another_function_is_asked_itself(caplog):
    known_layer._say_once.cache_clear()
    layer, x, use = AddsItsInput(*sequential()), rows(), LayerInUse()
    assert isinstance(known := use(layer, x), KnownLayer)
    assert use.confirms(known, x, known.jvp(x, x)[0])
    layer.on = True
    with caplog.at_level(logging.WARNING):
        known = use(layer, x)
        assert not use.confirms(known, x, layer(x) - x)
        layer.on = False
        assert use(layer, x) is layer
    assert [record.getMessage() for record in caplog.records] == [caplog.messages[0]]
    assert "AddsItsInput that were found no longer give its output" in caplog.text


@pytest.mark.parametrize("estimator", ["jvp", "secant"])
@pytest.mark.parametrize("known_y", [False, True])
def test_no_wrong_derivative_of_a_layer_that_becomes_another_function(estimator, known_y):
    layer, x, matching = AddsItsInput(*sequential()), rows(), JacobianMatching(estimator=estimator, probe="pair")
    matching.targets(layer, x)
    layer.on = True
    _, y, v, Jv, *_ = matching.targets(layer, x, y=layer(x).detach() if known_y else None)
    assert v is not None
    torch.testing.assert_close(y, layer(x))
    right = layer_jvp(layer, x, v) if estimator == "jvp" else layer_secant(layer, x, v, 0.5)
    torch.testing.assert_close(Jv, right[1])


@pytest.mark.parametrize("layer", [lambda x: x.sin(), AddsItsInput(*sequential()), nn.LayerNorm(16).double()])
def test_an_opaque_layer_is_asked_itself_and_said_once(layer, caplog):
    known_layer._say_once.cache_clear()
    if isinstance(layer, AddsItsInput):
        layer.on = True
    x, use = rows(), LayerInUse()
    with caplog.at_level(logging.WARNING):
        assert use(layer, x) is layer
        assert use(layer, x) is layer
    assert caplog.text.count("three times the layer") == 1
    matching = JacobianMatching(probe="pair")
    response = matching.targets(layer, x)
    assert response.v is not None
    torch.testing.assert_close(response.Jv, layer_jvp(layer, x, response.v)[1])


def test_a_copy_does_not_copy_the_layer():
    layer, use = sequential(), LayerInUse()
    use(layer, rows())
    assert vars(copy.deepcopy(use)) == vars(LayerInUse())


def test_inputs_of_another_dtype_are_named():
    layer, use = sequential(), LayerInUse()
    use(layer, rows())
    with pytest.raises(ValueError, match="bring both to one dtype"):
        JacobianMatching().targets(layer, rows().float())
