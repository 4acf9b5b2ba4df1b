import pytest
import torch

from faithfulness_plugin.metrics import deletion


def test_shares_of_what_all_features_are_worth_clipped_and_less_those_of_random_ones():
    whole, empty = torch.tensor([1.0, 0.0, 5.0]), torch.tensor([0.0, -2.0, 5.0])
    ranked = torch.tensor([[0.5, -1.0, 9.0], [-3.0, -2.0, 9.0]])
    drawn = torch.tensor([[1.0, 0.0, 9.0], [0.5, 1.0, 9.0]])
    of = deletion(whole, empty, ranked, drawn, [1, 2])
    assert of.sizes == (1, 2)
    assert of.by_attribution == pytest.approx((0.5, 1.0))  # the third prompt hangs on no feature
    assert of.at_random == pytest.approx((0.0, 0.0))
    assert of.excess == pytest.approx((0.5, 1.0))
    with pytest.raises(ValueError, match="changes no answer"):
        deletion(whole, whole, ranked, drawn, [1, 2])


def test_a_prompt_whose_answer_changes_by_rounding_alone_counts_for_nothing():
    whole, empty = torch.tensor([1.0, 5.0]), torch.tensor([0.0, 5.0000005])
    ranked, drawn = torch.tensor([[0.5, 4.0]]), torch.tensor([[1.0, 5.0]])
    assert deletion(whole, empty, ranked, drawn, [1]).by_attribution == pytest.approx((0.5,))
