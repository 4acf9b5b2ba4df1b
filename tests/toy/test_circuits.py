import torch

from faithfulness_plugin import AbsInputs, AbsNetwork
from faithfulness_plugin.toy.circuits import abs_circuits, datapoint_circuit


def test_the_circuits_add_up_to_the_layer():
    x = next(AbsInputs(5, density=0.5))
    parts = [circuit.activation(x)[:, None] * circuit.direction for circuit in abs_circuits(5)]
    assert torch.equal(torch.stack(parts).sum(0), AbsNetwork(5)(x))


def test_the_datapoint_circuit_is_the_layer_at_p_and_silent_elsewhere():
    inputs = AbsInputs(5, repeat_frac=0.5)
    x, circuit = next(inputs), datapoint_circuit(inputs.point)
    repeated = (x == inputs.point).all(-1)
    assert torch.equal(circuit.activation(x), repeated.float())
    assert torch.equal(circuit.direction, AbsNetwork(5)(inputs.point))
