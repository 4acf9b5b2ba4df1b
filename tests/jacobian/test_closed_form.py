import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import ARCHITECTURES, DenseRelu, central_difference, densely, jacobians_of_batch, random_transcoder

from faithfulness_plugin import transcoder_jvp, transcoder_vjp

GRID = [(architecture, skip) for architecture in ARCHITECTURES for skip in (False, True)]


@pytest.mark.parametrize(("architecture", "skip"), GRID)
def test_closed_form_is_autograd_is_the_central_difference(make_transcoder, architecture, skip):
    transcoder = make_transcoder(architecture, skip=skip)
    x, v = torch.randn(20, 5, dtype=torch.float64), torch.randn(20, 5, dtype=torch.float64)
    y, Jv = transcoder_jvp(transcoder, x, v)
    torch.testing.assert_close(y, transcoder(x))
    J = jacobians_of_batch(transcoder, x)
    torch.testing.assert_close(Jv, torch.einsum("noi,ni->no", J, v))
    torch.testing.assert_close(Jv, central_difference(transcoder, x, v, 1e-7), rtol=1e-5, atol=1e-7)
    u = torch.randn(20, 4, dtype=torch.float64)
    y, JTu = transcoder_vjp(transcoder, x, u)
    torch.testing.assert_close(y, transcoder(x))
    torch.testing.assert_close(JTu, torch.einsum("noi,no->ni", J, u))


@pytest.mark.parametrize(("architecture", "skip"), GRID)
def test_gradients_of_the_closed_forms_are_autograds(make_transcoder, architecture, skip):
    transcoder = make_transcoder(architecture, skip=skip)
    x, v = torch.randn(20, 5, dtype=torch.float64), torch.randn(20, 5, dtype=torch.float64)
    u = torch.randn(20, 4, dtype=torch.float64)
    weights = [transcoder.W_enc, transcoder.W_dec, *([transcoder.W_skip] if skip else [])]
    gate = (transcoder.encode(x) > 0).double()

    def by_hand(
        x: torch.Tensor,
    ) -> torch.Tensor:  # differentiable twice, which hard gates written otherwise need not be
        y = ((x @ transcoder.W_enc) * gate) @ transcoder.W_dec
        return y + x @ transcoder.W_skip.T if skip else y

    forward = torch.func.jvp(by_hand, (x,), (v,))[1]
    point = x.clone().requires_grad_()
    backward = torch.autograd.grad(by_hand(point), point, u, create_graph=True)[0]
    for ours, theirs in (
        (transcoder_jvp(transcoder, x, v)[1], forward),
        (transcoder_vjp(transcoder, x, u)[1], backward),
    ):
        for a, b in zip(
            torch.autograd.grad(ours.square().sum(), weights, retain_graph=True),
            torch.autograd.grad(theirs.square().sum(), weights, retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(a, b)


@given(
    architecture=st.sampled_from(list(ARCHITECTURES)),
    skip=st.booleans(),
    d_in=st.integers(1, 5),
    d_out=st.integers(1, 5),
    d_sae=st.integers(3, 9),
    n_probes=st.integers(1, 3),
    leading=st.lists(st.integers(0, 3), min_size=1, max_size=2),
)
def test_any_shape_and_any_number_of_probes(architecture, skip, d_in, d_out, d_sae, n_probes, leading):
    transcoder = random_transcoder(architecture, d_in, d_out, d_sae, skip=skip)
    x = torch.randn(*leading, d_in, dtype=torch.float64)
    v = torch.randn(n_probes, *leading, d_in, dtype=torch.float64)
    u = torch.randn(n_probes, *leading, d_out, dtype=torch.float64)
    y, Jv = transcoder_jvp(transcoder, x, v)
    _, JTu = transcoder_vjp(transcoder, x, u)
    assert y.shape == (*leading, d_out)
    torch.testing.assert_close(Jv, torch.stack([transcoder_jvp(transcoder, x, probe)[1] for probe in v]))
    torch.testing.assert_close((Jv * u).sum(-1), (JTu * v).sum(-1))  # <J v, u> = <v, J^T u>
    dense = densely(transcoder)
    torch.testing.assert_close(transcoder_jvp(dense, x, v), (y, Jv))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_non_contiguous_inputs_are_fine(make_transcoder, architecture):
    transcoder = make_transcoder(architecture)
    x, v = torch.randn(5, 20, dtype=torch.float64).T, torch.randn(5, 20, dtype=torch.float64).T
    assert not x.is_contiguous()
    torch.testing.assert_close(
        transcoder_jvp(transcoder, x, v), transcoder_jvp(transcoder, x.contiguous(), v.contiguous())
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_gate_that_is_passed_in_is_not_computed_again(make_transcoder, architecture):
    transcoder = make_transcoder(architecture)
    x, v = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    u = torch.randn(4, 4, dtype=torch.float64)
    expected = transcoder_jvp(transcoder, x, v), transcoder_vjp(transcoder, x, u)
    acts, region = transcoder.encode(x), transcoder.encode_to_region(x)
    encoded: list[int] = []
    transcoder.hook_sae_input.add_hook(lambda t, hook: encoded.append(1))
    for gate in (acts, region):
        torch.testing.assert_close(transcoder_jvp(transcoder, x, v, gate=gate), expected[0])
        torch.testing.assert_close(transcoder_vjp(transcoder, x, u, gate=gate), expected[1])
    assert not encoded


def test_per_row_jacobians_of_a_batch_topk_are_another_functions(make_transcoder):
    transcoder = make_transcoder("batch_topk", k=1.5)
    x = torch.randn(20, 5, dtype=torch.float64)
    x[::2] *= 4  # rows of unlike size, that take unlike shares of the batch's features
    ours = transcoder_jvp(transcoder, x, torch.eye(5, dtype=torch.float64)[:, None].expand(5, 20, 5))[1].movedim(0, -1)
    torch.testing.assert_close(ours, jacobians_of_batch(transcoder, x))
    row_by_row = torch.vmap(torch.func.jacrev(transcoder))(x)  # each row keeps its own: no error, another function
    wrong = (ours - row_by_row).flatten(1).norm(dim=1) > 0.01
    assert wrong.sum() >= 5


def test_any_other_module_goes_through_autograd_with_gradients():
    student = DenseRelu(5, 12, 4)
    x, v = torch.randn(6, 5, dtype=torch.float64), torch.randn(2, 6, 5, dtype=torch.float64)
    u = torch.randn(2, 6, 4, dtype=torch.float64)
    active = student.encoder(x) > 0
    W_enc, W_dec = student.encoder.weight, student.decoder.weight
    weights = [W_enc, W_dec]
    for ours, expected in (
        (transcoder_jvp(student, x, v), ((v @ W_enc.T) * active) @ W_dec.T),
        (transcoder_vjp(student, x, u), ((u @ W_dec) * active) @ W_enc),
    ):
        torch.testing.assert_close(ours[0], student(x))
        torch.testing.assert_close(ours[1], expected)
        for a, b in zip(
            torch.autograd.grad(ours[1].square().sum(), weights),
            torch.autograd.grad(expected.square().sum(), weights),
            strict=True,
        ):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("option", [{"gate": torch.ones(2, 12).double()}, {"gate_bandwidth": 0.1}])
def test_options_that_need_a_closed_form_are_refused_without_one(option):
    x = torch.zeros(2, 5).double()
    for method in (transcoder_jvp, transcoder_vjp):
        with pytest.raises(ValueError, match=f"DenseRelu has no closed form that takes a {next(iter(option))}"):
            method(DenseRelu(5, 12, 4), x, x[:, :5] if method is transcoder_jvp else x[:, :4], **option)
