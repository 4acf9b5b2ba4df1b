import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import central_difference, jacobian_by_rows

from faithfulness_plugin import AbsNetwork, layer_jvp


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


@pytest.mark.parametrize("shape", [(3, 4), (5,), (2, 2, 5), (0, 3, 5)])
def test_a_probe_that_does_not_fit_is_named(as_installed, mlp, shape):
    with pytest.raises(ValueError, match=r"the probes have shape .* but the rows they belong to \[3, 5\]"):
        layer_jvp(mlp, torch.zeros(3, 5).double(), torch.zeros(shape).double())
