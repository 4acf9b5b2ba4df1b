import pytest
import torch
from oracles import ARCHITECTURES, DenseRelu

from faithfulness_plugin import gradient_masking_penalty


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_is_its_formula(make_transcoder, architecture):
    transcoder, x = make_transcoder(architecture), torch.randn(3, 7, 5, dtype=torch.float64)
    acts, total = transcoder.encode(x).reshape(21, -1), 0.0
    for row in acts:
        for i in row.nonzero().flatten():
            total += (transcoder.W_enc[:, i].norm() * transcoder.W_dec[i].norm()).item()
    penalty = gradient_masking_penalty(transcoder, x)
    assert penalty.item() == pytest.approx(total / 21)
    penalty.backward()
    for weight in (transcoder.W_enc, transcoder.W_dec):
        assert weight.grad is not None
        assert weight.grad.norm() > 1e-3


def test_scale_that_moves_between_the_matrices_costs_nothing(make_transcoder):
    transcoder, x = make_transcoder(), torch.randn(9, 5, dtype=torch.float64)
    before = gradient_masking_penalty(transcoder, x)
    transcoder.fold_W_dec_norm()
    torch.testing.assert_close(gradient_masking_penalty(transcoder, x), before)


def test_features_that_write_nothing_cost_nothing_and_batches_without_rows_neither(make_transcoder):
    transcoder = make_transcoder("topk")
    assert gradient_masking_penalty(transcoder, torch.zeros(0, 5).double()).item() == 0
    with torch.no_grad():
        transcoder.b_enc.fill_(-100)
    assert gradient_masking_penalty(transcoder, torch.randn(4, 5).double()).item() == 0


def test_a_module_whose_features_are_not_known_is_refused():
    with pytest.raises(ValueError, match="features of DenseRelu are not known: register its linear region"):
        gradient_masking_penalty(DenseRelu(5, 12, 4), torch.zeros(2, 5).double())
