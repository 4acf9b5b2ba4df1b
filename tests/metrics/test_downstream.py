import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from faithfulness_plugin.metrics import effect


@given(st.integers(-16, 16).map(lambda n: n / 8))
def test_an_effect_that_is_a_multiple_of_the_layers(share):
    clean, own = torch.randn(5, 3, 4).double(), torch.randn(5, 3, 4).double()
    elsewhere = torch.randn(5, 3, 4).double()
    of = effect(clean, clean + own, elsewhere, elsewhere + share * own)
    assert of.error == pytest.approx((share - 1) ** 2, abs=1e-9)
    assert of.cosine == pytest.approx(0 if share == 0 else share / abs(share), abs=1e-9)


def test_a_prompt_that_only_rounding_moves_has_no_effect():
    clean, changed = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    changed[1] = clean[1] * (1 + 1e-7)
    alone, both = (
        effect(clean[[0, 2]], changed[[0, 2]], clean[[0, 2]], 2 * changed[[0, 2]]),
        effect(clean, changed, clean, 2 * changed),
    )
    assert both.cosine == pytest.approx(alone.cosine)
    with pytest.raises(ValueError, match="no effect in the model"):
        effect(clean[1:2], changed[1:2], clean[:1], changed[:1])


def test_a_ratio_of_means_over_prompts_and_a_cosine_over_those_with_an_effect():
    clean = torch.zeros(3, 1, 2)
    changed = torch.tensor([[[3.0, 0.0]], [[0.0, 1.0]], [[0.0, 0.0]]])
    spliced = torch.tensor([[[0.0, 3.0]], [[0.0, 2.0]], [[1.0, 0.0]]])
    of = effect(clean, changed, clean, spliced)
    assert of.error == pytest.approx((18 + 1 + 1) / 10)
    assert of.cosine == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no effect in the model"):
        effect(clean, clean, clean, spliced)


@given(st.integers(1, 40), st.floats(1e-7, 0.09))
def test_prompts_that_hardly_move_do_not_count_for_the_cosine(n_still, size):
    own = torch.zeros(2 + n_still, 2).double()
    own[:2, 0], own[2:, 0] = 1.0, size / (2 + n_still) ** 0.5
    answered = own.clone()
    answered[2:] = own[2:].flip(1)  # elsewhere, by as little
    of = effect(torch.zeros_like(own), own, torch.zeros_like(own), answered)
    assert (of.cosine, of.moved) == (pytest.approx(1), 2)
    assert of.error < 0.02
