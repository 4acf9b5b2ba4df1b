"""Hooks at a layer's two ends."""

from torch import Tensor

from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hook


def read_and_write(layer: HookedLayer, read: Hook, write: Hook) -> dict[str, Hook]:
    """Return hooks at a layer's input and output; one after the other at the single tensor of an autoencoder.

    Args:
        layer: the layer.
        read: called on what it reads.
        write: called on what it writes.

    Returns:
        The hooks by the names of their tensors, as `Hooks.run` takes them.
    """
    if layer.hook_in != layer.hook_out:
        return {layer.hook_in: read, layer.hook_out: write}

    def both(x: Tensor) -> Tensor | None:
        changed = read(x)
        return write(x if changed is None else changed)

    return {layer.hook_in: both}
