import torch
from oracles import DenseRelu

from faithfulness_plugin import layer_jvp, transcoder_jvp
from faithfulness_plugin.jacobian.estimators.secant import layer_secant, transcoder_secant


def test_the_layers_secant_tends_to_its_derivative(mlp):
    x, v = torch.randn(5, 5, dtype=torch.float64), torch.randn(3, 5, 5, dtype=torch.float64)
    _, Jv = layer_jvp(mlp, x, v)
    errors = [(layer_secant(mlp, x, v, step)[1] - Jv).norm() for step in (1e-1, 1e-2, 1e-3)]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]  # of first order in the step


def test_at_a_kink_the_secant_sees_both_sides():
    x, v = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    assert layer_jvp(torch.abs, x, v)[1].item() == 0
    assert layer_secant(torch.abs, x, v, 0.1)[1].item() == 1
    assert layer_secant(torch.abs, x, -v, 0.1)[1].item() == 1


def test_the_students_secant_is_its_difference_quotient_with_a_gradient_also_to_b_enc(make_transcoder):
    transcoder = make_transcoder()
    x = torch.randn(30, 5, dtype=torch.float64)
    v = torch.randn_like(x)
    _, secant = transcoder_secant(transcoder, x, v, 0.5)
    torch.testing.assert_close(secant, (transcoder(x + 0.5 * v) - transcoder(x)) / 0.5)
    torch.testing.assert_close(transcoder_secant(transcoder, x, v, 0.5, gate=transcoder.encode(x))[1], secant)
    through_secant = torch.autograd.grad(secant.square().sum(), transcoder.b_enc)[0]
    assert through_secant.any()
    Jv = transcoder_jvp(transcoder, x, v)[1]
    through_jvp = torch.autograd.grad(Jv.square().sum(), transcoder.b_enc, allow_unused=True)[0]
    assert through_jvp is None


def test_the_students_secant_tends_to_its_derivative():
    student = DenseRelu(5, 12, 4)
    x, v = torch.randn(8, 5, dtype=torch.float64), torch.randn(8, 5, dtype=torch.float64)
    torch.testing.assert_close(
        transcoder_secant(student, x, v, 1e-9)[1], transcoder_jvp(student, x, v)[1], atol=1e-5, rtol=0
    )
