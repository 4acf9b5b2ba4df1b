"""Every task is what its summary says: the layer's formula, rows, points, circuits."""

import pytest
import torch

from faithfulness_plugin.benchmarks.tasks.frames import rotation, spikes_and_waves
from faithfulness_plugin.benchmarks.tasks.latents import LatentRows, point
from faithfulness_plugin.benchmarks.tasks.registry import TASKS, task
from faithfulness_plugin.toy.circuits import at_point
from faithfulness_plugin.toy.relu_network import ReluNetwork

FORMULAS = {
    "absolute_value": [lambda x: x.abs()],
    "many_points": [lambda x: x.abs()],
    "memorizing_layer": [lambda x: x.abs() + _ones(x) * (2 * x[:, :3].sum(-1, keepdim=True) - 5).relu()],
    "rotated": [lambda x: (x @ rotation(16, 16).T).abs() @ rotation(16, 16)],
    "superposition": [
        lambda x: torch.stack(
            [((x @ u).abs() - 0.25).clamp(min=0)[:, None] * (x @ u).sign()[:, None].abs() * u for u in _waves()]
        ).sum(0)
    ],
    "pairwise_max": [lambda x: torch.maximum(x[:, 0::2], x[:, 1::2])],
    "two_hops": [
        lambda x: 2 * (x[:, 0::2] + x[:, 1::2] - 1.5).relu(),
        lambda a: (a[:, 0::2] - a[:, 1::2]).abs(),
    ],
}


def _ones(x):
    return (torch.arange(x.shape[1]) < 3).to(x)


def _waves():
    return spikes_and_waves(24, 16)


@pytest.mark.parametrize("name", TASKS)
def test_points_clean_and_shifted_rows(name):
    for hop in task(name).hops:
        shares = [p.share for p in hop.rows.points]
        rows = hop.rows.draw(20_000, torch.Generator().manual_seed(0))
        for p, share in zip(hop.points, shares, strict=True):
            repeated = at_point(rows, p)
            assert repeated.float().mean().item() == pytest.approx(share, abs=4 * (share / 20_000) ** 0.5)
            assert (rows[repeated] == p).all()  # copies of one row, whatever the frame
            assert at_point(hop.clean, p).float().mean() < share / 10  # by itself
        assert hop.clean.shape[1] == hop.shifted.shape[1] == hop.layer.d_in
        assert (hop.shifted != 0).float().mean() > (hop.clean != 0).float().mean()


@pytest.mark.parametrize("name", FORMULAS)
def test_the_layer_is_its_formula(name):
    for hop, formula in zip(task(name).hops, FORMULAS[name], strict=True):
        x = torch.cat([hop.clean[:500], *(p[None] for p in hop.points), torch.randn(100, hop.layer.d_in)])
        torch.testing.assert_close(hop.layer(x), formula(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_circuits_occur_write_along_the_basis_and_points_call_for_several(name):
    of = task(name)
    for hop in of.hops:
        network = hop.layer if hop.sought is None else hop.sought
        assert len(hop.circuits) == network.W_in.shape[1]
        torch.testing.assert_close(hop.writes.norm(dim=1), torch.ones(len(hop.writes)))
        for p in hop.points:
            y = hop.layer(p[None])[0]
            assert ((hop.writes @ y).abs() > 1e-3).sum() >= 3
        if of.keeps == "circuits":
            for neuron in hop.layer.W_out:
                assert (hop.writes @ neuron).abs().max() == pytest.approx(neuron.norm().item(), rel=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_along_the_directions_that_count_the_layer_has_a_derivative(name):
    for hop in task(name).hops:
        rows, directions = hop.clean[:64].double(), hop.rows.directions.double()
        layer = ReluNetwork(*(w.double() for w in (hop.layer.W_in, hop.layer.W_out, hop.layer.b_in)))
        for i, u in enumerate(directions):
            counts = hop.differentiable[:64, i]
            ahead, behind = layer(rows + 1e-6 * u) - layer(rows), layer(rows) - layer(rows - 1e-6 * u)
            torch.testing.assert_close(ahead[counts], behind[counts], rtol=1e-4, atol=1e-9)


def test_the_second_hop_learns_from_what_the_first_one_writes():
    first, second = task("two_hops").hops
    bits = first.rows.latents(500, torch.Generator().manual_seed(3))
    ands = second.rows.latents(500, torch.Generator().manual_seed(3))
    torch.testing.assert_close(first.layer(bits), ands)
    torch.testing.assert_close(first.layer(first.points[0][None])[0], second.points[0])


def test_frames_are_what_they_say():
    turn = rotation(8, 8).double()
    torch.testing.assert_close(turn @ turn.T, torch.eye(8).double(), atol=1e-6, rtol=0)
    assert (turn.abs() > 0.9).sum() == 0
    frame = spikes_and_waves(24, 16).double()
    products = (frame @ frame.T - torch.eye(24)).abs()
    assert products.max() == pytest.approx(0.25)


@pytest.mark.exact("draws from generators in one state")
def test_rows_of_one_seed_are_the_same_and_a_point_needs_no_luck():
    rows = LatentRows(4, 4, points=(point(4, 0, 2, share=0.5, value=-1.0),))
    draws = [rows.draw(50, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*draws)
    assert (draws[0] == torch.tensor([-1.0, 0.0, -1.0, 0.0])).all(-1).sum() > 10


def test_an_unknown_task_is_named_with_the_nearest():
    with pytest.raises(ValueError, match="no task 'rotate': did you mean rotated"):
        task("rotate")
