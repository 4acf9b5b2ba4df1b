import pytest
import torch

from faithfulness_plugin import AbsInputs, AbsNetwork
from faithfulness_plugin.benchmarks.tasks.registry import task
from faithfulness_plugin.toy.circuits import abs_circuits, at_point, datapoint_circuit


@pytest.mark.bitwise("sums with one term that is not 0 are exact in any order")
def test_the_circuits_add_up_to_the_layer():
    x = next(AbsInputs(5, density=0.5))
    parts = [circuit.activation(x)[:, None] * circuit.direction for circuit in abs_circuits(5)]
    assert torch.equal(torch.stack(parts).sum(0), AbsNetwork(5)(x))


@pytest.mark.exact("whole numbers and masks")
def test_the_datapoint_circuit_is_the_layer_at_p_and_silent_elsewhere():
    inputs = AbsInputs(5, repeat_frac=0.5)
    x, circuit = next(inputs), datapoint_circuit(inputs.point)
    repeated = (x == inputs.point).all(-1)
    assert torch.equal(circuit.activation(x), repeated.float())
    torch.testing.assert_close(circuit.direction, AbsNetwork(5)(inputs.point))


@pytest.mark.exact("whole numbers and masks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_datapoint_circuit_knows_rows_that_were_computed_and_no_others(dtype):
    (hop,) = task("rotated").hops
    (point,), turn = hop.points, hop.rows.directions
    latents = hop.rows.latents(2000, torch.Generator().manual_seed(0))
    repeated = (latents == torch.tensor(hop.rows.points[0].latents)).all(-1)
    # products of several sizes, which processors round each in their own way
    x = torch.cat([part @ turn for part in latents.split(7)]).to(dtype)
    assert repeated.any()
    assert torch.equal(datapoint_circuit(point.to(dtype)).activation(x), repeated.to(dtype))


def test_a_row_is_at_the_point_within_a_part_of_its_norm():
    point = torch.tensor([3.0, 4.0])
    x = point + torch.tensor([[0.0, 0.0], [0.0, 4e-4], [0.0, 6e-4]])
    assert at_point(x, point).tolist() == [True, True, False]
    assert at_point(x, point, within=1e-3).all()
    assert at_point(torch.zeros(2), torch.zeros(2))
