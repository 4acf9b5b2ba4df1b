"""The mode of `--rounding-noise` does what it says."""

import threading
from collections.abc import Callable

import pytest
import torch
from rounding_noise import RoundingNoise, rounding_noise
from torch import Tensor

pytestmark = pytest.mark.bitwise("the noise is counted in units, and two modes would add theirs")


@pytest.fixture(params=[torch.float32, torch.float64])
def pair(request) -> tuple[Tensor, Tensor]:
    return torch.randn(7, 5, dtype=request.param), torch.randn(5, 6, dtype=request.param)


def assert_noisy(compute: Callable[[], Tensor], units: int = 2) -> None:
    """Two calls differ, by so many units in the last place at most."""
    with RoundingNoise(0):
        one, other = compute(), compute()
    assert (one != other).any()
    unit = torch.finfo(one.dtype).eps
    torch.testing.assert_close(one, other, rtol=units * unit, atol=0)


@pytest.mark.parametrize(
    "product",
    [
        lambda a, b: a @ b,
        lambda a, b: torch.addmm(torch.ones(6).to(a), a, b),
        lambda a, b: torch.bmm(a[None], b[None]),
        lambda a, b: torch.baddbmm(torch.ones(1, 1, 6).to(a), a[None], b[None]),
        lambda a, b: torch.mm(a, b, out=torch.empty(7, 6).to(a)),
        lambda a, b: a @ b[:, 0],
        lambda a, b: torch.stack([row @ b[:, 0] for row in a]),
        lambda a, b: torch.nn.functional.linear(a, b.T),
        lambda a, b: torch.einsum("ij,jk->ik", a, b),
        lambda a, b: torch.func.vmap(lambda row: row @ b)(a),
    ],
)
def test_every_kind_of_product_is_rounded_differently_at_every_call(pair, product):
    assert_noisy(lambda: product(*pair))
    with torch.inference_mode():
        assert_noisy(lambda: product(*pair))


def test_so_are_backward_passes_and_forward_mode_derivatives(pair):
    a, b = pair
    assert_noisy(lambda: torch.autograd.grad((a @ (w := b.clone().requires_grad_())).sum(), w)[0])
    assert_noisy(lambda: torch.func.jvp(lambda x: x @ b, (a,), (a,))[1])
    assert_noisy(lambda: torch.func.vjp(lambda x: x @ b, a)[1](torch.ones(7, 6).to(a))[0])


def test_so_are_threads_and_the_noise_ends(pair):
    a, b = pair
    found: list[Tensor] = []
    with rounding_noise("a test"):
        thread = threading.Thread(target=lambda: found.extend((a @ b, a @ b)))
        thread.start()
        thread.join()
    assert (found[0] != found[1]).any()


def test_zeros_whole_numbers_and_the_draws_of_a_test_are_left_alone():
    before = torch.get_rng_state()
    with RoundingNoise(0):
        assert not (torch.zeros(3, 4) @ torch.randn(4, 5, generator=torch.Generator().manual_seed(0))).any()
        assert (torch.ones(3, 4, dtype=torch.long) @ torch.ones(4, 5, dtype=torch.long) == 4).all()
        assert (torch.get_rng_state() == before).all()
