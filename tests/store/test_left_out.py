"""The rule by which rows are left out, by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from faithfulness_plugin.store.left_out import LeftOut, LeftOutCounts

TOKENS = torch.tensor([[0, 5, 6, 0], [7, 8, 5, 9]])


@given(st.lists(st.integers(0, 9), max_size=4), st.integers(0, 6))
def test_places_are_those_of_other_tokens_at_later_positions(ids, skip_first):
    places = LeftOut(tuple(ids), skip_first).places(TOKENS)
    for prompt in range(2):
        for position in range(4):
            kept = position >= skip_first and int(TOKENS[prompt, position]) not in ids
            assert bool(places[prompt, position]) == kept


def test_ids_alone_make_a_rule_and_so_does_nothing():
    rule = LeftOut(skip_first=2)
    assert LeftOut.of(rule) is rule
    assert LeftOut.of(torch.tensor([3, 4])) == LeftOut(token_ids=(3, 4))
    assert LeftOut.of(None) == LeftOut()


@given(st.floats(1.01, 20))
@pytest.mark.exact("masks, of the same norms")
def test_norms_are_compared_with_a_multiple_of_the_median_on_either_side(factor):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(31, 3, generator=generator), torch.randn(31, 5, generator=generator)
    x[4] *= 100
    y[9] *= 100
    rule = LeftOut(norms_above=factor).fitted(x, y)
    a, b = x.norm(dim=1), y.norm(dim=1)
    expected = (a <= factor * a.median()) & (b <= factor * b.median())
    assert torch.equal(rule.within(x, y), expected)
    assert not expected[[4, 9]].any()
    assert rule.fitted(10 * x, 10 * y) == rule  # fitted once


def test_without_a_factor_all_norms_are_usual():
    rows = torch.randn(4, 2)
    assert LeftOut().fitted(rows, rows).within(1e9 * rows, rows).all()


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="skip_first=-1"):
        LeftOut(skip_first=-1)
    for factor in (1.0, 0.0, float("nan")):
        with pytest.raises(ValueError, match="pass a factor above 1"):
            LeftOut(norms_above=factor)
    with pytest.raises(ValueError, match="not fitted to this layer"):
        LeftOut(norms_above=2.0).within(torch.ones(1, 1), torch.ones(1, 1))


def test_counts_say_what_was_left_out():
    assert (
        str(LeftOutCounts(4096, 32, 3, 0))
        == "4,061 of 4,096 tokens count; left out: 32 at the first positions, 3 special tokens"
    )
    assert str(LeftOutCounts(8, 0, 0, 0)) == "8 of 8 tokens count"
    assert LeftOutCounts(8, 1, 2, 3).rows == 2
