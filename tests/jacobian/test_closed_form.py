import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import DenseRelu, central_difference

from faithfulness_plugin import StandardTrainingTranscoder, StandardTrainingTranscoderConfig, transcoder_jvp


def away_from_ties(transcoder: StandardTrainingTranscoder, n: int = 20) -> torch.Tensor:
    x = torch.randn(n, transcoder.cfg.d_in, dtype=torch.float64)
    _, hidden_pre = transcoder.encode_with_hidden_pre(x)
    return x[(hidden_pre.abs() > 1e-4).all(-1)]


def test_closed_form_is_autograd_is_the_central_difference(make_transcoder):
    transcoder = make_transcoder()
    x = away_from_ties(transcoder)
    v = torch.randn_like(x)
    y, Jv = transcoder_jvp(transcoder, x, v)
    torch.testing.assert_close(y, transcoder(x))
    torch.testing.assert_close(Jv, torch.func.jvp(transcoder, (x,), (v,))[1])
    torch.testing.assert_close(Jv, central_difference(transcoder, x, v, 1e-7), rtol=1e-5, atol=1e-7)


def test_gradients_of_the_closed_form_are_autograds(make_transcoder):
    transcoder = make_transcoder()
    x = away_from_ties(transcoder)
    v = torch.randn_like(x)
    weights = [transcoder.W_enc, transcoder.W_dec]
    ours = torch.autograd.grad(transcoder_jvp(transcoder, x, v)[1].square().sum(), weights)
    theirs = torch.autograd.grad(torch.func.jvp(transcoder, (x,), (v,))[1].square().sum(), weights)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@given(d_in=st.integers(1, 5), d_out=st.integers(1, 5), d_sae=st.integers(1, 9), n_probes=st.integers(1, 3))
def test_any_shape_and_any_number_of_probes(d_in, d_out, d_sae, n_probes):
    config = StandardTrainingTranscoderConfig(d_in=d_in, d_out=d_out, d_sae=d_sae, dtype="float64")
    transcoder = StandardTrainingTranscoder(config)
    x = torch.randn(2, 3, d_in, dtype=torch.float64)
    v = torch.randn(n_probes, 2, 3, d_in, dtype=torch.float64)
    _, Jv = transcoder_jvp(transcoder, x, v)
    torch.testing.assert_close(Jv, torch.stack([torch.func.jvp(transcoder, (x,), (u,))[1] for u in v]))


def test_a_gate_that_is_passed_in_is_not_computed_again(make_transcoder):
    transcoder = make_transcoder()
    x = torch.randn(4, 5, dtype=torch.float64)
    v = torch.randn_like(x)
    expected = transcoder_jvp(transcoder, x, v)
    acts = transcoder.encode(x)
    encoded: list[int] = []
    transcoder.hook_sae_acts_pre.add_hook(lambda t, hook: encoded.append(1))
    y, Jv = transcoder_jvp(transcoder, x, v, gate=acts)
    assert not encoded
    torch.testing.assert_close((y, Jv), expected)


def test_any_other_module_goes_through_autograd_with_gradients():
    student = DenseRelu(5, 12, 4)
    x, v = torch.randn(6, 5, dtype=torch.float64), torch.randn(2, 6, 5, dtype=torch.float64)
    y, Jv = transcoder_jvp(student, x, v)
    torch.testing.assert_close(y, student(x))
    active = student.encoder(x) > 0
    expected = ((v @ student.encoder.weight.T) * active) @ student.decoder.weight.T
    torch.testing.assert_close(Jv, expected)
    weights = [student.encoder.weight, student.decoder.weight]
    ours = torch.autograd.grad(Jv.square().sum(), weights)
    theirs = torch.autograd.grad(expected.square().sum(), weights)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_a_gate_for_a_module_without_a_closed_form_is_refused():
    x = torch.zeros(2, 5).double()
    with pytest.raises(ValueError, match="DenseRelu has no closed form that takes a gate"):
        transcoder_jvp(DenseRelu(5, 12, 4), x, x, gate=torch.ones(2, 12).double())


def test_a_class_of_ones_own_can_register():
    class Double(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    @transcoder_jvp.register
    def _(transcoder: Double, x: torch.Tensor, v: torch.Tensor, *, gate: torch.Tensor | None = None):
        return 2 * x, 3 * v  # wrong on purpose, to be told apart

    x = torch.ones(1, 2)
    assert torch.equal(transcoder_jvp(Double(), x, x)[1], 3 * x)
