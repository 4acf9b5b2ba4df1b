from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import ARCHITECTURES, jacobian_by_rows, random_transcoder
from torch import Tensor, nn

from faithfulness_plugin.metrics import response
from faithfulness_plugin.metrics.response import finite_differences
from faithfulness_plugin.transcoders.base import TrainingTranscoder

DISTANCES = (0.01, 0.5, 1.0, 3.0)


def rows(n: int = 20, d: int = 5) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64)


def always_on(d_sae: int = 6) -> TrainingTranscoder[Any]:
    """A transcoder that is affine: every feature fires everywhere near."""
    transcoder = random_transcoder("standard", d_sae=d_sae)
    with torch.no_grad():
        transcoder.b_enc.fill_(1e3)
    return transcoder


def test_of_a_linear_layer_and_transcoder_it_is_their_matrices_at_every_distance():
    transcoder, layer, x, v = always_on(), nn.Linear(5, 4).double(), rows(), rows()
    A_t, A_f = transcoder.W_enc @ transcoder.W_dec, layer.weight.T
    D_t, D_f = (v @ A_t).detach(), (v @ A_f).detach()
    result = response(transcoder, layer, x, v, DISTANCES)
    error = ((D_t - D_f).square().sum() / D_f.square().sum()).item()
    assert result.error == pytest.approx((error,) * 4)
    assert result.cosine == pytest.approx((torch.cosine_similarity(D_t, D_f).mean().item(),) * 4)
    assert result.distances == DISTANCES


def test_it_is_the_quotient_of_sums_written_out(mlp, make_transcoder):
    transcoder, x, v = make_transcoder(skip=True), rows(), rows()
    result = response(transcoder, mlp, x, v, DISTANCES)
    for eps, error, cosine in zip(DISTANCES, result.error, result.cosine, strict=True):
        D_f = [mlp(row + eps * step) - mlp(row) for row, step in zip(x, v, strict=True)]
        D_t = transcoder(x + eps * v) - transcoder(x)
        squares = [((a - b).square().sum().item(), b.square().sum().item()) for a, b in zip(D_t, D_f, strict=True)]
        assert error == pytest.approx(sum(a for a, _ in squares) / sum(b for _, b in squares))
        cosines = [(a @ b / a.norm() / b.norm()).item() for a, b in zip(D_t, D_f, strict=True)]
        assert cosine == pytest.approx(sum(cosines) / len(cosines))


def test_the_layer_itself_makes_no_error(mlp):
    result = response(mlp, mlp, rows(), rows(), DISTANCES)
    assert result.error == pytest.approx((0.0,) * 4, abs=1e-24)  # of squares, in double precision
    assert result.cosine == pytest.approx((1.0,) * 4)


@given(scale=st.floats(-3, 3))
def test_a_transcoder_that_answers_a_multiple_makes_the_error_of_the_rest(scale):
    layer = nn.Sequential(nn.Linear(5, 4), nn.Tanh()).double()
    multiple = nn.Linear(4, 4, bias=False).double()
    with torch.no_grad():
        multiple.weight.copy_(scale * torch.eye(4, dtype=torch.float64))
    result = response(nn.Sequential(layer, multiple), layer, rows(), rows(), (0.5,))
    assert result.error[0] == pytest.approx((scale - 1) ** 2, abs=1e-12)


def test_a_constant_answers_nothing(mlp, make_transcoder):
    transcoder = make_transcoder()
    with torch.no_grad():
        transcoder.b_enc.fill_(-1e3)
    result = response(transcoder, mlp, rows(), rows(), DISTANCES)
    assert result.error == pytest.approx((1.0,) * 4)
    assert result.cosine == (0.0,) * 4


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "batch_topk"])
def test_short_steps_tend_to_the_jacobians_error_along_them(mlp, make_transcoder, architecture):
    transcoder, x, v = make_transcoder(architecture, skip=True), rows(), rows()
    J_f = torch.stack([jacobian_by_rows(mlp, row) for row in x])
    J_t = torch.stack([jacobian_by_rows(lambda r: transcoder(r[None])[0], row) for row in x])
    D_f, D_t = (torch.einsum("noi,ni->no", J, v) for J in (J_f, J_t))
    truth = ((D_t - D_f).square().sum() / D_f.square().sum()).item()
    result = response(transcoder, mlp, x, v, (1.0, 1e-6))
    assert result.error[1] == pytest.approx(truth, rel=1e-4)
    assert result.cosine[1] == pytest.approx(torch.cosine_similarity(D_t, D_f).mean().item(), rel=1e-4)
    assert result.error[0] != pytest.approx(truth, rel=1e-3)  # or a finite step would say nothing new


def test_rows_where_the_layer_stands_still_count_in_the_error_alone(make_transcoder):
    transcoder = make_transcoder(d_in=2, d_out=2)
    x = torch.tensor([[-5.0, -5.0], [0.5, 0.5], [0.2, 0.1]], dtype=torch.float64)
    v = torch.ones_like(x)
    both, moving = (response(transcoder, torch.relu, x[rows], v[rows], (1.0,)) for rows in ([0, 1, 2], [1, 2]))
    assert both.cosine == pytest.approx(moving.cosine)
    each = finite_differences(transcoder, torch.relu, x, v, (1.0,))[0]
    assert each.layer.tolist() == pytest.approx([0, 2, 2])
    assert each.cosine[0] == 0
    assert both.error[0] == pytest.approx((each.squared_error.sum() / 4).item())


def test_a_step_that_the_layer_does_not_answer_is_named(make_transcoder):
    x = -2 * torch.ones(3, 5, dtype=torch.float64)
    v = torch.ones_like(x)
    with pytest.raises(ValueError, match=r"does not respond to a step of 0\.5"):
        response(make_transcoder(d_out=5), torch.relu, x, v, (4.0, 0.5))


def test_a_transcoder_of_another_layer_is_named(mlp, make_transcoder):
    with pytest.raises(ValueError, match="compare a transcoder with the layer it replaces"):
        response(make_transcoder(d_out=1), mlp, rows(), rows(), (1.0,))


def test_it_leaves_no_graph(mlp, make_transcoder):
    assert not finite_differences(make_transcoder(), mlp, rows(), rows(), (1.0,))[0].squared_error.requires_grad
