from faithfulness_plugin import AbsInputs
from faithfulness_plugin.benchmarks.note.superposition_layer import superposition_network


def test_the_superposition_layer_computes_with_too_few_neurons_what_one_neuron_each_could_not():
    network = superposition_network(8, 12, 0.05, n_steps=2000)
    x = next(AbsInputs(8, density=0.05, batch_size=4000, seed=9))
    y = x.abs()
    fvu = ((network(x) - y).square().sum() / (y - y.mean(0)).square().sum()).item()
    assert network.W_in.shape == (8, 12)  # |x| takes 16
    assert fvu < 4 / 16  # 12 neurons for half a coordinate each would leave 4 of the 16 halves out
    assert superposition_network(8, 12, 0.05, n_steps=2000) is network
