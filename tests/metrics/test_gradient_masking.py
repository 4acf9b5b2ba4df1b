import pytest
import torch
from torch import nn

from faithfulness_plugin import gradient_masking_penalty, metrics


@pytest.mark.parametrize("architecture", ["standard", "topk"])
def test_against_the_definition_row_by_row(make_transcoder, architecture):
    t = make_transcoder(architecture)
    x = torch.randn(30, 5).double()
    acts, t = t.encode(x).detach(), t.requires_grad_(False)
    slopes, written = [], []
    for row in acts:
        active = row.to_dense() > 0
        slopes.append(sum(t.W_enc[:, i].norm() * t.W_dec[i].norm() for i in active.nonzero().flatten()))
        written.append(sum(row.to_dense()[i] * t.W_dec[i].norm() for i in active.nonzero().flatten()))
    found = metrics.gradient_masking(t, x)
    assert found.index == pytest.approx(float(sum(slopes)) / 30)
    assert found.index == pytest.approx(gradient_masking_penalty(t, x).item())
    assert found.written == pytest.approx(float(sum(written)) / 30)
    assert found.ratio == pytest.approx(found.index / found.written)
    assert 0 <= found.barely_active < 0.2


def test_a_feature_that_writes_next_to_nothing_with_a_large_slope_shows(make_transcoder):
    t = make_transcoder()
    x = torch.randn(50, 5).double()
    x[:, 0] = 1.0
    with torch.no_grad():
        t.W_enc[:, 0], t.b_enc[0] = 0.0, -1.0
    before = metrics.gradient_masking(t, x)
    with torch.no_grad():  # a millionth active on every row, with a slope of 100
        t.W_enc[0, 0], t.b_enc[0] = 100.0, 1e-6 - 100.0
        t.W_dec[0] = t.W_dec[0] / t.W_dec[0].norm()
    after = metrics.gradient_masking(t, x)
    assert after.index == pytest.approx(before.index + 100)
    assert after.written == pytest.approx(before.written, abs=1e-5)
    hidden = before.barely_active * before.index + 100
    assert after.barely_active == pytest.approx(hidden / after.index)
    assert after.ratio > 10 * before.ratio


def test_silence_is_zero_and_unknown_modules_are_refused(make_transcoder):
    with pytest.raises(ValueError, match="not known"):
        metrics.gradient_masking(nn.Linear(5, 4), torch.randn(3, 5))
    t = make_transcoder()
    with torch.no_grad():
        t.b_enc.fill_(-100)
    assert set(metrics.gradient_masking(t, torch.randn(3, 5).double()).to_dict().values()) == {0.0}
