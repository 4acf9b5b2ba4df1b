"""Layers for controls: one that really memorises p, one with shuffled weights, one in superposition."""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.benchmarks.note.trainer.ensemble import train_ensemble
from faithfulness_plugin.benchmarks.note.trainer.member import ToyMember
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.toy.abs_network import AbsNetwork
from faithfulness_plugin.toy.relu_network import ReluNetwork
from faithfulness_plugin.transcoders.standard import StandardTrainingTranscoderConfig


def memorizing_network(point: Float[Tensor, " d_in"]) -> ReluNetwork:
    """y = |x| + p ReLU(2 p.x - 2 p.p + 1): |x|, and one more neuron that is 1 at p, fires where p.x > p.p - 1/2 only,
    and writes p. Here a datapoint feature is faithful, and a good method keeps it. f(p) = 2 |p| for p of ones.

    Raises ValueError for a point of zeros."""
    if not point.any():
        raise ValueError("the point is zero, so that no neuron can read it: pass one with n_ones of 1 or more")
    network = AbsNetwork(len(point)).to(point)
    return ReluNetwork(
        torch.cat([network.W_in, 2 * point[:, None]], dim=1),
        torch.cat([network.W_out, point[None]]),
        torch.cat([network.b_in, (1 - 2 * point @ point)[None]]),
    )


def shuffled_network(d_in: int, seed: int = 0) -> ReluNetwork:
    """|x|'s neurons with the rows of W_out in a random order: the same weights, another function. What a method finds
    of |x| in a transcoder of this layer, it finds by chance."""
    network = AbsNetwork(d_in)
    order = torch.randperm(2 * d_in, generator=torch.Generator().manual_seed(derived_seed(seed, "shuffle")))
    return ReluNetwork(network.W_in, network.W_out[order])


@lru_cache(maxsize=8)
def superposition_network(d_in: int, n_neurons: int, density: float, n_steps: int = 3000, seed: int = 0) -> ReluNetwork:
    """|x| on sparse rows by fewer neurons than the 2 d_in that it takes: trained on the outputs alone, without penalty,
    so that neurons serve several coordinates each, and interfere. Its Jacobian has a tail that is no mechanism.

    Source: C. Olah, "A Toy Model of Mechanistic (Un)Faithfulness", 2025, on superposition."""
    config = StandardTrainingTranscoderConfig(d_in=d_in, d_sae=n_neurons, sparsity_coefficient=0.0)
    member = ToyMember(transcoder=config, seed=seed, density=density)
    layer: Layer = torch.abs
    result = train_ensemble([member], layer, n_steps=n_steps, lr_decay_steps=n_steps // 3, progress=False)
    W_enc, b_enc, W_dec, b_dec, *_ = result.weights[0]
    return ReluNetwork(W_enc, W_dec, b_enc, b_dec)
