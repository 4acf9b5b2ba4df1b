import pytest
import torch
from torch import nn

from faithfulness_plugin.benchmarks.real_layers.permuted_layer import permuted, weights_of
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.mlp_weights import mlp_weights
from faithfulness_plugin.store import StoreError


def hooked(module: nn.Module) -> HookedLayer:
    return HookedLayer("in", "out", module, weights=lambda: mlp_weights(module))


@pytest.mark.exact("entries are moved, and outputs computed twice by one call")
def test_every_matrix_keeps_its_entries_and_loses_their_places():
    layer = hooked(nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 5)))
    x, weights = torch.randn(7, 4), weights_of(layer)
    before, y = {n: p.detach().clone() for n, p in parts(weights).items()}, layer(x)
    with permuted(layer, 0):
        for name, part in parts(weights).items():
            assert torch.equal(part.flatten().sort().values, before[name].flatten().sort().values)
            assert not torch.equal(part, before[name])
        other = layer(x)
        torch.testing.assert_close(weights.output(x), other)
        assert not torch.allclose(other, y)
    assert torch.equal(layer(x), y)
    with permuted(layer, 0):
        assert torch.equal(layer(x), other)
    with permuted(layer, 1):
        assert not torch.equal(layer(x), other)


@pytest.mark.exact("one computation, twice")
def test_the_layer_is_restored_after_an_error():
    layer = hooked(nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 5)))
    x = torch.randn(7, 4)
    y = layer(x)
    with pytest.raises(KeyboardInterrupt), permuted(layer, 0):
        raise KeyboardInterrupt
    assert torch.equal(layer(x), y)


def test_a_layer_of_unknown_weights_is_refused():
    with pytest.raises(StoreError, match=r"the weights of .* are not known"), permuted(hooked(nn.Identity()), 0):
        pass


def parts(weights):
    return {name: part for name, part in weights._asdict().items() if isinstance(part, torch.Tensor)}
