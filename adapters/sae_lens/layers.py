"""From the name of a hook to the layer that a transcoder there replaces."""

import re
from typing import Any

from faithfulness_plugin.adapters.transformer_lens.hooks import TransformerLensHooks
from faithfulness_plugin.layers.any_model import mlp_layer
from faithfulness_plugin.layers.hooked_layer import HookedLayer

OF_AN_MLP = re.compile(r"blocks\.(\d+)\.(hook_mlp_out|hook_mlp_in|mlp\.hook_in|mlp\.hook_out|ln2\.hook_normalized)")


def layer_at(model: Any, hook_name: str) -> HookedLayer:
    """The MLP at whose input or output the hook is. Raises ValueError for a hook that does not exist or is at none."""
    match = OF_AN_MLP.fullmatch(hook_name)
    if match is not None and int(match[1]) < len(model.blocks):
        return mlp_layer(model, int(match[1]))
    TransformerLensHooks(model).require(hook_name)
    raise ValueError(
        f"{hook_name} is neither the input nor the output of an MLP, so which layer is meant? Pass "
        f'layer=layer_between(model, "{hook_name}", hook_out)'
    )
