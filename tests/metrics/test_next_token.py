import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from faithfulness_plugin.metrics.next_token import (
    NextToken,
    ce_recovered,
    cross_entropy,
    kl_divergence,
    undefined_ce_recovered,
)


def logits(seed: int, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return scale * torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(seed)).to(dtype)


def tokens() -> torch.Tensor:
    return torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_cross_entropy_of_every_token_but_the_first(scale):
    at = logits(0, scale)
    expected = functional.cross_entropy(at[:, :-1].flatten(0, 1), tokens()[:, 1:].flatten(), reduction="none")
    torch.testing.assert_close(cross_entropy(at, tokens()).flatten().double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.exact("the same operations on the same numbers, one by one")
def test_cross_entropy_does_not_see_the_last_logits_or_the_first_token():
    at, other, first = logits(0), logits(0), tokens()
    other[:, -1] += 5
    first[:, 0] = (first[:, 0] + 1) % 7
    assert torch.equal(cross_entropy(at, tokens()), cross_entropy(other, first))


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_kl_divergence_from_the_first_to_the_second(scale):
    p, q = logits(0, scale), logits(1, scale)
    expected = functional.kl_div(q.log_softmax(-1), p.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(kl_divergence(p, q).double(), expected, rtol=1e-5, atol=1e-5)
    assert (kl_divergence(p, q) - kl_divergence(q, p)).abs().max() > 1e-2


@pytest.mark.exact("a number less itself")
def test_kl_divergence_is_that_of_distributions():
    p = logits(0)
    assert torch.equal(kl_divergence(p, p), torch.zeros(3, 5))
    torch.testing.assert_close(kl_divergence(p, p + 3), torch.zeros(3, 5), atol=1e-6, rtol=0)
    assert (kl_divergence(p, logits(1)) > 0).all()


def test_half_precision_is_summed_in_single():
    p, q = logits(0, 5.0, torch.bfloat16), logits(1, 5.0, torch.bfloat16)
    torch.testing.assert_close(kl_divergence(p, q), kl_divergence(p.double(), q.double()))
    torch.testing.assert_close(cross_entropy(p, tokens()), cross_entropy(p.double(), tokens()))


@given(st.floats(1, 20), st.floats(0, 0.99), st.floats(-2, 2))
def test_the_share_that_is_recovered(zero, clean, share):
    spliced = zero + share * (clean - zero)
    assert ce_recovered(zero, spliced, clean) == pytest.approx(share, abs=1e-4)


@given(st.floats(0, 5), st.floats(0, 20), st.floats(-10, 1e-7))
def test_where_zeros_cost_nothing_or_help_nothing_can_be_recovered(clean, spliced, cost):
    zero = clean + cost * clean
    assert ce_recovered(zero, spliced, clean) is None
    assert "nothing to recover" in undefined_ce_recovered(zero, clean)


def test_where_zeros_cost_something_a_part_of_it_can_be_recovered():
    assert ce_recovered(2.0, 2.5, 2.0) is None
    assert undefined_ce_recovered(2.0, 1.0) == ""
    assert ce_recovered(2.0, 1.0, 1.0) == 1
    assert ce_recovered(2.0, 2.0, 1.0) == 0


@pytest.mark.bitwise("the same functions of the same rows")
def test_predictions_that_are_kept_are_compared_as_alone():
    p, q = logits(0), logits(1)
    own = NextToken(p, tokens())
    assert torch.equal(own.cross_entropy, cross_entropy(p, tokens()))
    for changed in (q, p):
        ce, kl = own.compare(changed)
        assert torch.equal(ce, cross_entropy(changed, tokens()))
        assert torch.equal(kl, kl_divergence(p, changed)[:, :-1])
