"""Plain Hugging Face models: their hooks by name, without TransformerLens."""

from faithfulness_plugin.adapters.huggingface.hooks import HuggingFaceHooks
from faithfulness_plugin.layers.any_model import layer_between, mlp_layer

__all__ = ["HuggingFaceHooks", "layer_between", "mlp_layer"]
