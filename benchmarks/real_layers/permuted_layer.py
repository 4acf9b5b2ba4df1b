"""The control of an arbitrary layer: the MLP's weights in another order within each matrix, in the model itself."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.mlp_weights import mlp_weights
from faithfulness_plugin.layers.normed_mlp import LayerWeights, NormedMlp
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.store import StoreError


def weights_of(layer: HookedLayer) -> LayerWeights:
    """Read a layer's weights.

    Args:
        layer: an MLP with one hidden layer.

    Returns:
        The weights themselves, not copies.

    Raises:
        StoreError: they are not known.
    """
    if (weights := mlp_weights(layer)) is None:
        raise StoreError(f"the weights of {layer} are not known: choose a model whose MLPs have one hidden layer")
    return weights


@contextmanager
def permuted(layer: HookedLayer, seed: int) -> Iterator[None]:
    """Permute the entries of W_in, W_gate, W_out and biases, each within itself, while the context lasts.

    Norms and the distribution of entries stay; what the matrices compute goes. The rows x of the layer are still the
    real model's, because nothing before it changes; f(x), derivatives and the model's loss are the permuted layer's.

    Args:
        layer: the model's, which is changed in place and restored.
        seed: decides the orders.

    Yields:
        Nothing.
    """
    parts = _parts(weights_of(layer))
    before = {name: part.detach().clone() for name, part in parts.items()}
    try:
        for name, part in parts.items():
            generator = torch.Generator().manual_seed(derived_seed(seed, f"permuted {layer.hook_in} {name}"))
            order = torch.randperm(part.numel(), generator=generator).to(part.device)
            with torch.no_grad():
                part.copy_(before[name].flatten()[order].view(part.shape))
        yield
    finally:
        with torch.no_grad():
            for name, part in parts.items():
                part.copy_(before[name])


def _parts(weights: LayerWeights) -> dict[str, Tensor]:
    mlp = weights.mlp if isinstance(weights, NormedMlp) else weights
    return {name: part for name, part in mlp._asdict().items() if isinstance(part, Tensor)}
