"""A control layer that has to be trained: |x| in superposition."""

from functools import lru_cache

import torch

from faithfulness_plugin.benchmarks.note.trainer.ensemble import train_ensemble
from faithfulness_plugin.benchmarks.note.trainer.member import ToyMember
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.toy.relu_network import ReluNetwork
from faithfulness_plugin.transcoders.standard import StandardTrainingTranscoderConfig


@lru_cache(maxsize=8)
def superposition_network(d_in: int, n_neurons: int, density: float, n_steps: int = 3000, seed: int = 0) -> ReluNetwork:
    """Train a layer that computes |x| on sparse rows by fewer neurons than the 2 d_in that it takes.

    It is trained on the outputs alone, without penalty, so that neurons serve several coordinates each, and interfere.
    Its Jacobian has a tail that is no mechanism.

    Args:
        d_in: width of the layer.
        n_neurons: its ReLU neurons.
        density: probability that a coordinate of a row is not 0.
        n_steps: optimizer steps.
        seed: decides weights and rows.

    Returns:
        The layer, the same object for the same arguments.

    Source: C. Olah, "A Toy Model of Mechanistic (Un)Faithfulness", 2025, on superposition.
    """
    config = StandardTrainingTranscoderConfig(d_in=d_in, d_sae=n_neurons, sparsity_coefficient=0.0)
    member = ToyMember(transcoder=config, seed=seed, density=density)
    layer: Layer = torch.abs
    result = train_ensemble([member], layer, n_steps=n_steps, lr_decay_steps=n_steps // 3, progress=False)
    W_enc, b_enc, W_dec, b_dec, *_ = result.weights[0]
    return ReluNetwork(W_enc, W_dec, b_enc, b_dec)
