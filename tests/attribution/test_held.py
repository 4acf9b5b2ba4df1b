"""What is held, in each way in which libraries write it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from faithfulness_plugin.attribution.held import Held

W, B = torch.linspace(0.5, 2, 6, dtype=torch.float64), torch.linspace(-1, 1, 6, dtype=torch.float64)


def mean_square(x: Tensor) -> Tensor:
    return x.square().mean(-1, keepdim=True) + 1e-5


NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "layer_norm": lambda x: functional.layer_norm(x, (6,), W, B),
    "layer_norm, named": lambda x: functional.layer_norm(x, normalized_shape=(6,), weight=W, bias=B, eps=1e-3),
    "LayerNorm": torch.nn.LayerNorm(6, dtype=torch.float64),
    "without a scale": lambda x: functional.layer_norm(x, (6,)),
    "rms_norm": lambda x: functional.rms_norm(x, (6,), W),
    "rms_norm, eps": lambda x: functional.rms_norm(x, (6,), W, eps=1e-2),
    "rsqrt": lambda x: x * torch.rsqrt(mean_square(x)) * W,
    "sqrt": lambda x: x / mean_square(x).sqrt() * W,
    "power": lambda x: x * torch.pow(mean_square(x), -0.5) * W,
}


@pytest.mark.parametrize("norm", NORMS)
def test_norms_are_linear_and_keep_their_values(norm):
    x = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with Held():
        y = NORMS[norm](x)
    torch.testing.assert_close(y, NORMS[norm](x))
    (g,) = torch.autograd.grad(y[1, 2], x)
    shift = B[2] if norm.startswith("layer_norm") else 0
    torch.testing.assert_close((g * x).sum() + shift, y[1, 2])


def by_softmax(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    future = torch.ones(5, 5, dtype=torch.bool).triu(1)
    return torch.softmax((query @ key.mT / 8**0.5).masked_fill(future, -torch.inf), -1) @ value


def fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True)


@pytest.mark.parametrize("attention", [by_softmax, fused])
def test_patterns_are_held(attention):
    x = torch.randn(1, 2, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with Held():
        y = attention(2 * x, x, x)
    torch.testing.assert_close(y, by_softmax(2 * x, x, x))
    target = y[0, 1, 3, 2]
    (g,) = torch.autograd.grad(target, x)
    torch.testing.assert_close((g * x).sum(), target)
    assert not g[0, 1, 4].any()


def test_what_is_held_is_not_held_elsewhere():
    x = torch.ones(3, requires_grad=True)
    assert torch.softmax(x, -1).requires_grad
    with Held():
        assert not torch.softmax(x, -1).requires_grad
        assert (x**2).requires_grad
    assert torch.softmax(x, -1).requires_grad
