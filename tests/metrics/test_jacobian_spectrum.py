import pytest
import torch
from torch import nn

from faithfulness_plugin import metrics
from faithfulness_plugin.jacobian.exact import layer_jacobian, transcoder_jacobian


def test_against_an_svd_row_by_row(make_transcoder, mlp):
    t, x = make_transcoder(), torch.randn(12, 5).double()
    found = metrics.jacobian_spectrum(t, mlp, x, top=(1, 3))
    numerator, denominator, full, energy = [0.0, 0.0], [0.0, 0.0], 0.0, 0.0
    for J_f, J_t in zip(layer_jacobian(mlp, x), transcoder_jacobian(t, x), strict=True):
        U, S, Vt = torch.linalg.svd(J_f)
        for n, k in enumerate((1, 3)):
            P, Q = U[:, :k] @ U[:, :k].T, Vt[:k].T @ Vt[:k]
            numerator[n] += (P @ (J_t - J_f) @ Q).square().sum().item()
            denominator[n] += S[:k].square().sum().item()
        full, energy = full + (J_t - J_f).square().sum().item(), energy + J_f.square().sum().item()
    assert found.top_error == pytest.approx([a / b for a, b in zip(numerator, denominator, strict=True)])
    assert found.relative_error == pytest.approx(full / energy)
    assert found.layer == pytest.approx(torch.linalg.svdvals(layer_jacobian(mlp, x)).mean(0).tolist())


def test_all_directions_give_the_full_error(make_transcoder, mlp):
    found = metrics.jacobian_spectrum(make_transcoder(), mlp, torch.randn(9, 5).double(), top=(4,))
    inside, whole = found.top_error[0], found.relative_error
    assert inside <= whole + 1e-12  # J_t may also act outside the layer's row space


def test_the_rank_is_at_most_the_number_of_active_features(make_transcoder, mlp):
    t, x = make_transcoder(d_sae=3), torch.randn(40, 5).double()
    found = metrics.jacobian_spectrum(t, mlp, x, top=(1,))
    assert found.rank <= (t.encode(x) > 0).sum(-1).double().mean().item() + 1e-9


def test_ranks_that_do_not_exist_and_a_flat_layer_are_refused(make_transcoder):
    t, x = make_transcoder(), torch.randn(4, 5).double()
    with pytest.raises(ValueError, match="choose ranks from 1 to 4"):
        metrics.jacobian_spectrum(t, nn.Linear(5, 4).double(), x, top=(5,))
    with pytest.raises(ValueError, match="zero on all these rows"):
        metrics.jacobian_spectrum(t, lambda rows: 0 * rows[:, :4], x, top=(1,))
