import pytest
import torch

from faithfulness_plugin import (
    AbsInputs,
    AbsNetwork,
    StandardTrainingTranscoder,
    StandardTrainingTranscoderConfig,
    metrics,
)
from faithfulness_plugin.jacobian.exact import layer_jacobian
from faithfulness_plugin.toy.circuits import datapoint_circuit
from faithfulness_plugin.toy.control_layers import memorizing_network, shuffled_network
from faithfulness_plugin.toy.relu_network import ReluNetwork


def as_transcoder(network: ReluNetwork) -> StandardTrainingTranscoder:
    """The transcoder that has the layer's own mechanism."""
    d_in, d_sae = network.W_in.shape
    transcoder = StandardTrainingTranscoder(StandardTrainingTranscoderConfig(d_in=d_in, d_sae=d_sae))
    with torch.no_grad():
        for name, weight in (("W_enc", "W_in"), ("b_enc", "b_in"), ("W_dec", "W_out"), ("b_dec", "b_out")):
            getattr(transcoder, name).copy_(getattr(network, weight))
    return transcoder


def test_the_memorizing_layer_is_the_absolute_value_but_at_p():
    inputs = AbsInputs(8, density=0.3, batch_size=2000)
    x, p = next(inputs), inputs.point
    network = memorizing_network(p)
    far = x @ p <= p @ p - 0.5
    assert far.float().mean() > 0.99
    torch.testing.assert_close(network(x[far]), x[far].abs())
    torch.testing.assert_close(network(p), 2 * p)
    J = layer_jacobian(network, p[None])[0]
    off = J - torch.diag(J.diagonal())
    assert off.norm().item() == pytest.approx(24**0.5)


def test_its_own_mechanism_has_half_of_the_largest_m_and_every_circuit():
    inputs = AbsInputs(8, density=0.3, repeat_frac=0.1, batch_size=2000)
    network = memorizing_network(inputs.point)
    transcoder = as_transcoder(network)
    assert metrics.memorization(transcoder, inputs.point, layer=network).fraction == pytest.approx(0.5)
    assert metrics.feature_recovery(transcoder, next(inputs), network.circuits()).recovered == 17
    assert metrics.feature_recovery(transcoder, next(inputs), [datapoint_circuit(inputs.point)]).recovered == 1


@pytest.mark.exact("sums of whole numbers")
def test_the_shuffled_layer_has_the_same_weights_in_another_order():
    network, plain = shuffled_network(8, seed=1), AbsNetwork(8)
    assert torch.equal(network.W_in, plain.W_in)
    assert torch.equal(network.W_out.sum(0), plain.W_out.sum(0))
    assert torch.equal(network.W_out.sum(1), plain.W_out.sum(1))
    assert not torch.equal(network.W_out, plain.W_out)
    assert torch.equal(network.W_out, shuffled_network(8, seed=1).W_out)
    assert not torch.equal(network.W_out, shuffled_network(8, seed=2).W_out)


def test_circuits_are_the_neurons():
    network, x = shuffled_network(5), torch.randn(20, 5)
    total = sum(c.activation(x)[:, None] * c.direction for c in network.circuits())
    torch.testing.assert_close(total, network(x))


def test_a_point_of_zeros_is_refused():
    with pytest.raises(ValueError, match="no neuron can read it"):
        memorizing_network(torch.zeros(4))
