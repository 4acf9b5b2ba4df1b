"""The control that begins at the layer: the MLP's own weights as the first dictionary."""

from typing import Any

import torch
from torch import Tensor, nn

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.layers.normed_mlp import LayerWeights, NormedMlp


def require_neurons(weights: LayerWeights, d_sae: int) -> None:
    """Check that a dictionary has room for a layer's neurons.

    Args:
        weights: the layer's.
        d_sae: features.

    Raises:
        UsageError: it has fewer features than the layer has neurons.
    """
    d_mlp = weights.W_in.shape[1]
    if d_sae < d_mlp:
        raise UsageError(f"layer init: the layer has {d_mlp} neurons and d_sae={d_sae}: choose d_sae >= {d_mlp}")


@torch.no_grad()
def begin_at_layer(transcoder: Any, weights: LayerWeights) -> None:
    """Let feature m read and write in the directions of neuron m.

    A gated neuron (SwiGLU) reads in two directions; the feature takes that of the gate, which decides when the neuron
    is on. Every direction keeps the norm of the default draw, so that arms differ in directions alone, and features
    beyond the neurons keep that draw as a whole.

    Args:
        transcoder: freshly drawn; is changed.
        weights: of a layer with at most as many neurons.

    Raises:
        UsageError: as `require_neurons`.
    """
    require_neurons(weights, transcoder.cfg.d_sae)
    mlp = weights.mlp if isinstance(weights, NormedMlp) else weights
    reads = mlp.W_in if mlp.W_gate is None else mlp.W_gate  # [d_in, d_mlp]
    n = reads.shape[1]
    transcoder.W_enc[:, :n] = _with_norms_of(transcoder.W_enc[:, :n], reads, dim=0)
    transcoder.W_dec[:n] = _with_norms_of(transcoder.W_dec[:n], mlp.W_out, dim=1)  # [d_mlp, d_out]


def _with_norms_of(drawn: Tensor, directions: Tensor, dim: int) -> Tensor:
    return nn.functional.normalize(directions.to(drawn), dim=dim) * drawn.norm(dim=dim, keepdim=True)
