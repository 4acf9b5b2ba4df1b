"""A layer that is its weights alone, read from a file."""

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.display import line
from faithfulness_plugin.layers.layer_weights import MlpWeights
from faithfulness_plugin.layers.mlp_weights import mlp_weights
from faithfulness_plugin.layers.normed_mlp import LayerWeights, NormedMlp


class StoredLayer:
    """f, row-wise, by its weights: without the model, its hooks, and what they would do.

    Args:
        weights: the layer's.
        exact: whether the rows beside it were kept in the layer's precision, so that the y that is kept is f(x).
    """

    def __init__(self, weights: LayerWeights, *, exact: bool = True) -> None:
        self.weights, self.exact = weights, exact

    def __call__(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return self.weights.output(x)

    def __repr__(self) -> str:
        return line("StoredLayer", {"weights": self.weights, "exact": self.exact})

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, in which rows have to come."""
        return self.weights.W_in.dtype

    def to(self, device: torch.device | str) -> "StoredLayer":
        """Move the weights to a device.

        Args:
            device: where they are wanted.

        Returns:
            The layer itself.
        """
        if self.weights.W_in.device != torch.device(device):
            self.weights = on_device(self.weights, device)
        return self


@mlp_weights.register
def _weights_of_stored_layer(layer: StoredLayer) -> LayerWeights:
    return layer.weights


def on_device(weights: LayerWeights, device: torch.device | str) -> LayerWeights:
    """Move weights to a device.

    Args:
        weights: a layer's.
        device: where they are wanted.

    Returns:
        The same weights, there.
    """
    if isinstance(weights, NormedMlp):
        mlp, scale, shift = _mlp_on(weights.mlp, device), weights.scale.to(device), weights.shift.to(device)
        return weights._replace(mlp=mlp, scale=scale, shift=shift)
    return _mlp_on(weights, device)


def _mlp_on(mlp: MlpWeights, device: torch.device | str) -> MlpWeights:
    moved = {name: part.to(device) for name, part in mlp._asdict().items() if isinstance(part, Tensor)}
    return mlp._replace(**moved)
