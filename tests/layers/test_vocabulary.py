import pytest
import torch
from torch import nn

from faithfulness_plugin.layers.vocabulary import norm_scale


@pytest.mark.parametrize("norm", [nn.LayerNorm(6), nn.RMSNorm(6, eps=1e-6), nn.LayerNorm(6, elementwise_affine=False)])
def test_the_scale_of_a_norm_is_found_from_what_it_makes_of_rows(norm):
    norm, x = norm.double(), torch.randn(20, 6, dtype=torch.float64)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    found = norm_scale(x, norm(x))
    assert found is not None
    assert found.divides
    assert found.centred == isinstance(norm, nn.LayerNorm)
    scale = torch.ones(6).double() if norm.weight is None else norm.weight.detach()
    torch.testing.assert_close(found.scale, scale)
    shift = getattr(norm, "bias", None)
    torch.testing.assert_close(found.rows(x), norm(x) - (0 if shift is None else shift), rtol=1e-4, atol=1e-4)
    v = torch.randn(3, 6).double()
    torch.testing.assert_close(found.fold(v), (v - v.mean(1, keepdim=True) if found.centred else v) * scale)


@pytest.mark.usefixtures("as_installed")
def test_the_same_tensor_has_no_norm_and_what_is_no_norm_has_none():
    x = torch.randn(20, 6)
    same = norm_scale(x, x.clone())
    assert same is not None
    assert not same.divides
    torch.testing.assert_close(same.rows(x), x)
    assert norm_scale(x, torch.tanh(x)) is None
    assert norm_scale(x, x @ torch.randn(6, 6)) is None
    assert norm_scale(x, torch.randn(20, 5)) is None
    assert norm_scale(x[:2], x[:2]) is None
    assert norm_scale(torch.ones(20, 6, dtype=torch.long), x) is None
