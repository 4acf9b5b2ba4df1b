"""TransformerLens: the hooks of a HookedTransformer or a TransformerBridge, and attaching transcoders there."""

from faithfulness_plugin.adapters.transformer_lens.attaching import attach
from faithfulness_plugin.adapters.transformer_lens.hooks import TransformerLensHooks
from faithfulness_plugin.layers.any_model import layer_between, mlp_layer

__all__ = ["TransformerLensHooks", "attach", "layer_between", "mlp_layer"]
