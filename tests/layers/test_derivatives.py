from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import forks
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import ARCHITECTURES, DenseRelu, central_difference, jacobian_by_rows, random_transcoder

from faithfulness_plugin import AbsNetwork, JacobianMatching, layer_jvp, layer_vjp, transcoder_jvp
from faithfulness_plugin.jacobian.estimators import ESTIMATORS
from faithfulness_plugin.layers.derivatives import double_vjp


def test_jvp_is_j_v_and_not_j_transposed_v():
    # a square, asymmetric layer: J v and J^T v have the same shape and differ
    W = torch.tensor([[1.0, 2.0], [0.0, 3.0]], dtype=torch.float64)
    x, v = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    y, Jv = layer_jvp(lambda rows: rows @ W.T, x, v)
    torch.testing.assert_close(y, x @ W.T)
    torch.testing.assert_close(Jv, v @ W.T)
    assert (Jv - v @ W).abs().min() > 1e-3


def test_jvp_is_the_central_difference_and_the_rows_jacobian(mlp):
    x, v = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    _, Jv = layer_jvp(mlp, x, v)
    torch.testing.assert_close(Jv, central_difference(mlp, x, v), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(Jv, torch.stack([jacobian_by_rows(mlp, r) @ u for r, u in zip(x, v, strict=True)]))


@given(n_probes=st.integers(1, 4), leading=st.lists(st.integers(1, 3), min_size=0, max_size=2))
def test_several_probes_are_each_probe_by_itself(n_probes, leading):
    layer = AbsNetwork(3).double()
    x = torch.randn(*leading, 3, dtype=torch.float64)
    v = torch.randn(n_probes, *leading, 3, dtype=torch.float64)
    y, Jv = layer_jvp(layer, x, v)
    torch.testing.assert_close(y, x.abs())
    torch.testing.assert_close(Jv, torch.stack([layer_jvp(layer, x, u)[1] for u in v]))
    torch.testing.assert_close(Jv, x.sign() * v)


def test_no_graph_is_kept_and_parameters_get_no_gradient(mlp):
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    y, Jv = layer_jvp(mlp, x, torch.ones(3, 5, dtype=torch.float64))
    assert not y.requires_grad
    assert not Jv.requires_grad
    assert all(p.grad is None for p in mlp.parameters())


def test_inputs_made_in_inference_mode_are_fine(mlp):
    with torch.inference_mode():
        x = torch.randn(3, 5, dtype=torch.float64)
    v = torch.ones(3, 5, dtype=torch.float64)
    torch.testing.assert_close(layer_jvp(mlp, x, v)[1], layer_jvp(mlp, x.clone(), v)[1])


def test_a_batch_without_rows_has_no_derivatives(mlp):
    x = torch.zeros(0, 5, dtype=torch.float64)
    assert layer_jvp(mlp, x, x)[1].shape == (0, 4)
    assert layer_jvp(mlp, x, torch.zeros(2, 0, 5, dtype=torch.float64))[1].shape == (2, 0, 4)


@given(n_probes=st.integers(1, 4), leading=st.lists(st.integers(1, 3), min_size=1, max_size=2))
def test_vjp_pulls_every_probe_back(n_probes, leading):
    W = torch.randn(3, 4, dtype=torch.float64)
    x, u = torch.randn(*leading, 3, dtype=torch.float64), torch.randn(n_probes, *leading, 4, dtype=torch.float64)
    y, JTu = layer_vjp(lambda rows: (rows @ W).tanh(), x, u)
    torch.testing.assert_close(y, (x @ W).tanh())
    torch.testing.assert_close(JTu, (u * (1 - y.square())) @ W.T)
    assert not y.requires_grad
    assert not JTu.requires_grad


def test_double_vjp_is_jvp_with_the_same_graph(mlp):
    x, v = torch.randn(6, 5, dtype=torch.float64), torch.randn(2, 6, 5, dtype=torch.float64)
    student = DenseRelu(5, 12, 4)
    weights = [student.encoder.weight, student.decoder.weight]
    results = [method(student, x, v) for method in (transcoder_jvp, double_vjp)]
    grads = [torch.autograd.grad(Jv.square().sum(), weights) for _, Jv in results]
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(grads[0], grads[1])


class BackwardOnly(torch.autograd.Function):
    """tanh with a backward pass and no forward-mode rule, as fused kernels have it."""

    @staticmethod
    def forward(ctx, x):
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        (y,) = ctx.saved_tensors
        return grad * (1 - y.square())


@pytest.mark.parametrize("inference", [False, True])
def test_a_layer_without_forward_mode_rules_is_differentiated_in_reverse(inference):
    x, v = torch.randn(6, 5, dtype=torch.float64), torch.randn(2, 6, 5, dtype=torch.float64)
    with torch.inference_mode(inference):
        y, Jv = layer_jvp(lambda rows: BackwardOnly.apply(rows), x, v)
    torch.testing.assert_close(y, x.tanh())
    torch.testing.assert_close(Jv, v * (1 - x.tanh().square()))
    assert not Jv.requires_grad


def test_a_layer_that_hides_from_autograd_is_named():
    x = torch.randn(3, 5, dtype=torch.float64)
    with pytest.raises(ValueError, match="does not depend on x through autograd"):
        layer_vjp(lambda rows: rows.detach(), x, x)


def test_an_exception_inside_the_layer_leaves_forward_mode_usable(mlp):
    x = torch.randn(3, 5, dtype=torch.float64)

    def broken(rows: torch.Tensor) -> torch.Tensor:
        raise KeyError("inside")

    expected = layer_jvp(mlp, x, x)[1]
    for _ in range(3):
        with pytest.raises(KeyError, match="inside"):
            layer_jvp(broken, x, x)
        torch.testing.assert_close(layer_jvp(mlp, x, x)[1], expected)
    with torch.autograd.forward_ad.dual_level():  # none was left open
        dual = torch.autograd.forward_ad.make_dual(x, x)
        assert torch.autograd.forward_ad.unpack_dual(mlp(dual)).tangent is not None


def test_inside_a_level_of_the_callers_own_it_goes_in_reverse(mlp):
    x = torch.randn(3, 5, dtype=torch.float64)
    expected = layer_jvp(mlp, x, x)[1]
    with torch.autograd.forward_ad.dual_level():
        torch.testing.assert_close(layer_jvp(mlp, x, x)[1], expected)


def test_two_threads_and_hundreds_of_calls_do_not_disturb_each_other(mlp):
    student = DenseRelu(5, 12, 4)
    x = [torch.randn(7, 5, dtype=torch.float64) for _ in range(2)]
    expected = [(layer_jvp(mlp, rows, rows)[1], transcoder_jvp(student, rows, rows)[1]) for rows in x]

    def many(which: int) -> None:
        for _ in range(200):
            found = layer_jvp(mlp, x[which], x[which])[1], transcoder_jvp(student, x[which], x[which])[1]
            torch.testing.assert_close(found, expected[which])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(many, range(2)))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_matching_works_inside_a_forward_hook_of_the_layer_itself(mlp, estimator):
    student, x, losses = random_transcoder(), torch.randn(8, 5, dtype=torch.float64), []
    matching = JacobianMatching(estimator=estimator, jitter=0.1)

    def hook(module: torch.nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        losses.append(matching(student, module, args[0]))

    handle = mlp.register_forward_hook(hook)
    mlp(x)
    handle.remove()
    assert len(losses) == 1  # the hook did not call itself
    expected = JacobianMatching(estimator=estimator, jitter=0.1)(student, mlp, x)
    torch.testing.assert_close(losses[0], expected)


@pytest.mark.parametrize(
    "estimators", [["jvp"], pytest.param([name for name in ESTIMATORS if name != "jvp"], marks=pytest.mark.slow)]
)
def test_a_compiled_training_step_is_the_plain_one(estimators):
    done = forks.run(Path(__file__).parents[1] / "compiled_step.py", *estimators)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(estimators) * len(ARCHITECTURES)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_gpu_computes_what_the_cpu_computes(mlp, architecture, estimator):
    student, x = random_transcoder(architecture, skip=True), torch.randn(8, 5, dtype=torch.float64)
    targets = JacobianMatching(estimator=estimator).targets(mlp, x)
    loss = JacobianMatching(estimator=estimator).from_targets(student, targets)
    loss.backward()
    assert student.W_enc.grad is not None
    there = random_transcoder(architecture, skip=True, device="cuda")
    there.load_state_dict(student.state_dict())
    on_gpu = JacobianMatching(estimator=estimator)
    assert torch.isfinite(on_gpu(there, mlp.cuda(), x.cuda()))
    moved = targets.to("cuda")
    there_loss = on_gpu.from_targets(there, moved)
    there_loss.backward()
    assert there.W_enc.grad is not None
    torch.testing.assert_close(there_loss.cpu(), loss)
    torch.testing.assert_close(there.W_enc.grad.cpu(), student.W_enc.grad)


@pytest.mark.parametrize("shape", [(3, 4), (5,), (2, 2, 5), (0, 3, 5)])
def test_a_probe_that_does_not_fit_is_named(as_installed, mlp, shape):
    with pytest.raises(ValueError, match=r"the probes have shape .* but the rows they belong to \[3, 5\]"):
        layer_jvp(mlp, torch.zeros(3, 5).double(), torch.zeros(shape).double())


def test_torch_does_not_warn_of_its_own_forward_mode_rules():
    code = """
import warnings
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    import torch
    from faithfulness_plugin import layer_jvp
    layer_jvp(torch.sin, torch.ones(2), torch.ones(2))
assert not [str(one.message) for one in told if "torch.jit" in str(one.message)], told
"""
    assert (done := forks.run(code)).returncode == 0, done.stderr
