import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from faithfulness_plugin.jacobian.active import ActiveFeatures, SharedMatrix, dot_active, sum_active


def some_active(n_rows: int, d_sae: int, share: float) -> ActiveFeatures:
    positions = (torch.rand(n_rows * d_sae) < share).nonzero().squeeze(-1)
    return ActiveFeatures.of_flat(positions, n_rows, d_sae)


@given(n_rows=st.integers(0, 5), d_sae=st.integers(1, 7), d=st.integers(1, 4), share=st.floats(0, 1))
def test_both_products_and_their_gradients_are_the_dense_ones(n_rows, d_sae, d, share):
    active = some_active(n_rows, d_sae, share)
    values = torch.randn(len(active.features), dtype=torch.float64, requires_grad=True)
    x = torch.randn(n_rows, d, dtype=torch.float64, requires_grad=True)
    W = torch.randn(d_sae, d, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(sum_active(values, active, W), active.dense(values) @ W)
    rows, features = active.rows, active.features
    torch.testing.assert_close(dot_active(x, active, W), (x @ W.T)[rows, features])
    if n_rows and len(features):
        # a second backward pass may be rounded differently
        assert gradcheck(lambda values, W: sum_active(values, active, W), (values, W), nondet_tol=1e-12)
        assert gradcheck(lambda x, W: dot_active(x, active, W), (x, W), nondet_tol=1e-12)


@pytest.mark.exact("copies of the same numbers")
@given(n_rows=st.integers(1, 5), d_sae=st.integers(1, 7), share=st.floats(0, 1))
def test_the_matrix_is_the_same_in_every_layout(n_rows, d_sae, share):
    active = some_active(n_rows, d_sae, share)
    values = torch.rand(len(active.features)) + 1
    dense = active.dense(values)
    assert torch.equal(active.coo(values).to_dense(), dense)
    assert torch.equal(dense.flatten().nonzero().squeeze(-1), active.rows * d_sae + active.features)
    assert active.n_rows == n_rows


def test_the_same_count_in_every_row():
    features = torch.tensor([[3, 0], [1, 2]])
    active = ActiveFeatures.same_count(features, 4)
    assert active.dense(torch.ones(4)).tolist() == [[1, 0, 0, 1], [0, 1, 1, 0]]


@pytest.mark.exact("copies of the same numbers")
def test_known_products_are_taken_as_they_are_and_get_the_gradient():
    active = some_active(3, 6, 0.5)
    x, W = torch.randn(3, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    known = torch.randn(len(active.features), dtype=torch.float64)
    taken = dot_active(x, active, W, known)
    assert torch.equal(taken, known)
    ours = torch.autograd.grad(taken.square().sum(), W)[0]
    theirs = torch.autograd.grad((dot_active(x, active, W) * 2 * known).sum(), W)[0]
    torch.testing.assert_close(ours, theirs)


def test_nothing_of_the_size_of_rows_times_k_times_d_is_saved_for_the_backward_pass():
    n_rows, k, d = 16, 8, 32
    active = ActiveFeatures.same_count(torch.randint(50, (n_rows, k)), 50)
    W = torch.randn(50, d, requires_grad=True)
    saved: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        sum_active(dot_active(torch.randn(n_rows, d), active, W), active, W)
    assert max(saved) <= W.numel() < n_rows * k * d


def test_one_gradient_for_all_products_with_a_matrix():
    """With the same features, with others, and with more rows: as the products' own gradients add up."""
    W, x, more = torch.randn(6, 4, dtype=torch.float64), *torch.randn(2, 3, 4, dtype=torch.float64)
    one, other = some_active(3, 6, 0.5), some_active(3, 6, 0.3)
    for uses in ([(one, x)], [(one, x), (one, more)], [(one, x), (other, more)], [(other, x), (one, x), (one, more)]):
        ours, theirs = W.clone().requires_grad_(), W.clone().requires_grad_()
        shared = SharedMatrix(ours)
        for matrix in (shared, theirs):
            values = [dot_active(rows, active, matrix).sin() for active, rows in uses]
            sums = [sum_active(value, active, matrix) for value, (active, _) in zip(values, uses, strict=True)]
            torch.stack(sums).square().sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_backward_pass_that_does_not_reach_the_matrix_adds_nothing_to_the_next():
    W, x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True), torch.randn(3, 4, dtype=torch.float64)
    active, x = some_active(3, 6, 0.5), x.requires_grad_()
    loss = dot_active(x, active, SharedMatrix(W)).square().sum()
    torch.autograd.grad(loss, x, retain_graph=True)
    (ours,) = torch.autograd.grad(loss, W, retain_graph=True)
    (again,) = torch.autograd.grad(loss, W)
    (right,) = torch.autograd.grad((x @ W.T)[active.rows, active.features].square().sum(), W)
    torch.testing.assert_close(ours, right)
    torch.testing.assert_close(again, right)


def test_a_step_leaves_nothing_behind():
    """No cycle of references, which would keep the matrix until the garbage collector runs."""
    shared = SharedMatrix(torch.randn(6, 4, requires_grad=True))
    kept = weakref.ref(shared.uses)
    sum_active(torch.ones(2), ActiveFeatures.same_count(torch.tensor([[0], [1]]), 6), shared).sum().backward()
    del shared
    assert kept() is None
