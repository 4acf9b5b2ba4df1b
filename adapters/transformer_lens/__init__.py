"""TransformerLens: the layer between two hooks of a HookedTransformer or a TransformerBridge, and attaching."""

from faithfulness_plugin.adapters.transformer_lens.hooks import TransformerLensHooks, attach, layer_between, mlp_layer

__all__ = ["TransformerLensHooks", "attach", "layer_between", "mlp_layer"]
