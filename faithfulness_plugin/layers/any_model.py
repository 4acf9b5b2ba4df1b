"""The hooks and layers of a TransformerBridge, a HookedTransformer or a plain Hugging Face model, alike."""

from typing import Any

from torch import nn

from faithfulness_plugin.adapters.huggingface import hooks as huggingface
from faithfulness_plugin.adapters.huggingface.hooks import HuggingFaceHooks
from faithfulness_plugin.adapters.transformer_lens import hooks as transformer_lens
from faithfulness_plugin.adapters.transformer_lens.hooks import TransformerLensHooks
from faithfulness_plugin.layers.hooked_layer import HookedLayer, Hooks, between, check_layer


def hooks_of(model: Any) -> Hooks:
    """The model's activations by name, whichever library it comes from; hooks are returned as they are.

    Raises ValueError for what is no such model.
    """
    if isinstance(model, Hooks):
        return model
    if hasattr(model, "hook_dict"):
        return TransformerLensHooks(model)
    if isinstance(model, nn.Module) and hasattr(model, "config"):
        return HuggingFaceHooks(model)
    raise ValueError(
        f"a {type(model).__name__} is no model that is known here: pass a HookedTransformer, a TransformerBridge, or a "
        "Hugging Face model"
    )


def mlp_of(hooks: Hooks, block: int) -> HookedLayer:
    """The MLP of a block, as that model's own adapter makes it. Raises as `mlp_layer` does."""
    if isinstance(hooks, TransformerLensHooks):
        return transformer_lens.mlp_layer(hooks.model, block)
    assert isinstance(hooks, HuggingFaceHooks)
    return huggingface.mlp_layer(hooks.model, block)


def checked_between(hooks: Hooks, hook_in: str, hook_out: str) -> HookedLayer:
    """The layer between two hooks, checked against the model. Raises as `layer_between` does."""
    layer = between(hooks, hook_in, hook_out)
    check_layer(hooks, layer, hook_in, hook_out)
    return layer
