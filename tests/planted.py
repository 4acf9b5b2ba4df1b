"""Transcoders whose scores are known."""

import torch

from faithfulness_plugin.benchmarks.tasks.task import Mechanism
from faithfulness_plugin.toy.exact_transcoder import exact_transcoder
from faithfulness_plugin.toy.relu_network import ReluNetwork


def with_neurons(network: ReluNetwork, reads: torch.Tensor, bias: torch.Tensor, writes: torch.Tensor) -> ReluNetwork:
    """The network with more of them."""
    return ReluNetwork(
        torch.cat([network.W_in, reads.T], dim=1),
        torch.cat([network.W_out, writes]),
        torch.cat([network.b_in, bias]),
        network.b_out,
    )


def memorising(hop: Mechanism):
    """The exact transcoder, and a feature for each point that writes all of the layer's output there, and fires nearly
    nowhere else."""
    points = torch.stack(hop.points)
    sizes = points.square().sum(-1)
    sharp = 10.0
    return exact_transcoder(
        with_neurons(hop.layer, sharp * points, 1 - sharp * sizes, hop.layer(points) - hop.layer.b_out)
    )


def without_last_neuron(hop: Mechanism):
    """The exact transcoder, but for one circuit."""
    w = hop.layer
    return exact_transcoder(ReluNetwork(w.W_in[:, :-1], w.W_out[:-1], w.b_in[:-1], w.b_out))
