"""Layers for controls: one that really memorises p, and one with shuffled weights."""

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.toy.abs_network import AbsNetwork
from faithfulness_plugin.toy.relu_network import ReluNetwork


def memorizing_network(point: Float[Tensor, " d_in"]) -> ReluNetwork:
    """Return y = |x| + p ReLU(2 p.x - 2 p.p + 1): |x|, and one more neuron, which is 1 at p and writes p.

    The neuron fires where p.x > p.p - 1/2 only, and f(p) = 2 |p| for p of ones. Here a datapoint feature is faithful,
    and a good method keeps it.

    Args:
        point: p, on whose device and in whose dtype the network is.

    Returns:
        The network, with 2 d_in + 1 neurons.

    Raises:
        ValueError: a point of zeros.
    """
    if not point.any():
        raise ValueError("the point is zero, so that no neuron can read it: pass one with n_ones of 1 or more")
    network = AbsNetwork(len(point)).to(point)
    return ReluNetwork(
        torch.cat([network.W_in, 2 * point[:, None]], dim=1),
        torch.cat([network.W_out, point[None]]),
        torch.cat([network.b_in, (1 - 2 * point @ point)[None]]),
    )


def shuffled_network(d_in: int, seed: int = 0) -> ReluNetwork:
    """Return |x|'s neurons with the rows of W_out in a random order: the same weights, another function.

    What a method finds of |x| in a transcoder of this layer, it finds by chance.

    Args:
        d_in: the width of x.
        seed: seeds the order.

    Returns:
        The network, with 2 d_in neurons.
    """
    network = AbsNetwork(d_in)
    order = torch.randperm(2 * d_in, generator=torch.Generator().manual_seed(derived_seed(seed, "shuffle")))
    return ReluNetwork(network.W_in, network.W_out[order])
