"""Hold transcoders against the widths of a layer, before the model is run on a text."""

from collections.abc import Mapping
from typing import Any

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.layers.derivatives import layer_output
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hooks
from faithfulness_plugin.store.fill import rows_at


def require_widths(hooks: Hooks, layer: HookedLayer, transcoders: Mapping[str, Any]) -> tuple[int, int]:
    """Refuse transcoders of another width than the layer, which runs on two tokens for it.

    Args:
        hooks: the model's.
        layer: between two of its tensors.
        transcoders: by the name that messages call them.

    Returns:
        The widths of what the layer reads and of what it writes.

    Raises:
        UsageError: a transcoder's d_in or d_out differs from the layer's.
    """
    x = rows_at(hooks, {layer.hook_in}, hooks.random_tokens(1, 2), None)[layer.hook_in]
    widths = x.shape[1], layer_output(layer, x).shape[1]
    for name, transcoder in transcoders.items():
        theirs = (transcoder.W_enc.shape[0], transcoder.W_dec.shape[1])
        if theirs != widths:
            raise UsageError(
                f"{name} maps {theirs[0]} to {theirs[1]} and the layer {widths[0]} to {widths[1]}: is it a transcoder "
                "of this layer and this model? Name another --layer or --model"
            )
    return widths
