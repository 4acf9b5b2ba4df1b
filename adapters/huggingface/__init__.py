"""Plain Hugging Face models: their hooks by name, and the layer between two of them, without TransformerLens."""

from faithfulness_plugin.adapters.huggingface.hooks import HuggingFaceHooks, layer_between, mlp_layer

__all__ = ["HuggingFaceHooks", "layer_between", "mlp_layer"]
