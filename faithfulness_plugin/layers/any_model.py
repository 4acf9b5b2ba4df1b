"""The hooks and layers of a model of any library, by the adapter that its class is registered for."""

from importlib import import_module

from torch import nn

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.layers.check_layer import between, check_layer
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hooks

ADAPTERS = {
    "transformer_lens": "faithfulness_plugin.adapters.transformer_lens.hooks:TransformerLensHooks",
    "transformers": "faithfulness_plugin.adapters.huggingface.hooks:HuggingFaceHooks",
}
"""The adapter by the library that a model's class, or one that it inherits from, comes from; imported at first use."""
KNOWN_BY = {"transformer_lens": "hook_dict", "transformers": "config"}
"""An attribute by which a library's models are recognised in a wrapper (torch.compile's)."""


def hooks_of(model: nn.Module | Hooks) -> Hooks:
    """Return a model's activations by name.

    A `Hooks` is returned as it is. A module of no known library is read as a TransformerLens model if it has a
    `hook_dict`, and as a Hugging Face model if it has a `config`.

    Args:
        model: a HookedTransformer, a TransformerBridge, a Hugging Face model, or its `Hooks`.

    Returns:
        The hooks, by which everything here reads and changes activations.

    Raises:
        UsageError: anything else.
    """
    if isinstance(model, Hooks):
        return model
    libraries = [cls.__module__.partition(".")[0] for cls in type(model).__mro__]
    known = [library for library in libraries if library in ADAPTERS]
    known += [library for library, has in KNOWN_BY.items() if hasattr(model, has)]
    if not known or not isinstance(model, nn.Module):
        raise UsageError(
            f"a {type(model).__name__} is no model that is known here: pass a HookedTransformer, a TransformerBridge, "
            "or a Hugging Face model"
        )
    module, _, name = ADAPTERS[known[0]].partition(":")
    return getattr(import_module(module), name)(model)


def mlp_layer(model: nn.Module | Hooks, block: int | str) -> HookedLayer:
    """Return the MLP of a block as a function of rows, with the hooks between which it stands, checked against the
    model.

    | model | hook_in | hook_out | f |
    | --- | --- | --- | --- |
    | TransformerBridge | mlp.hook_in | mlp.hook_out | the MLP |
    | TransformerBridge, OPT and BERT | mlp.in.hook_in | mlp.out.hook_out | the MLP |
    | HookedSAETransformer | mlp.hook_in | hook_mlp_out | the MLP, and the norm after it where there is one |
    | HookedTransformer, pre-norm | ln2.hook_normalized | hook_mlp_out | the same of x * w + b, unless that is folded |
    | HookedTransformer, no norm before the MLP | hook_resid_mid (parallel attention: hook_resid_pre) | hook_mlp_out | |
    | Hugging Face | MLP.input | MLP | the MLP |
    | Hugging Face, OPT and BERT | fc1.input, intermediate.input | fc2, output.dense | the MLP |

    (TransformerLens's names stand after `blocks.BLOCK.`.) Hooks on the MLP itself are passed by, except for a bridge
    in compatibility mode, whose MLP computes from weights of its own; hooks inside the MLP are run.

    Args:
        model: a HookedTransformer, a TransformerBridge, a Hugging Face model, or its `Hooks`.
        block: its number, or its name where a Hugging Face model has several lists of blocks ("decoder.block.1" of T5).
            A number counts in the list that a run of the model enters first.

    Returns:
        The layer, which takes rows [..., d_in] in the model's dtype and on its device.

    Raises:
        UsageError: there is no such block, or it has no MLP (the message says which blocks have one).
        LayerError: the model computes something else there, because of a hook that changes activations, for example.
    """
    hooks = hooks_of(model)
    layer = hooks.mlp(block)
    check_layer(hooks, layer, layer.hook_in, layer.hook_out)
    return layer


def layer_between(model: nn.Module | Hooks, hook_in: str, hook_out: str) -> HookedLayer:
    """Return the layer between any two hooks of a model as a function of rows, checked against the model.

    It runs the model up to `hook_out` whenever it is called: for an MLP `mlp_layer` is faster.

    Args:
        model: a HookedTransformer, a TransformerBridge, a Hugging Face model, or its `Hooks`.
        hook_in: the name of the tensor that the layer reads.
        hook_out: the name of the tensor that it writes.

    Returns:
        The layer, which takes rows [..., d_in].

    Raises:
        UsageError: there is no such hook (the nearest is named).
        LayerError: what `hook_out` carries is no function of what `hook_in` carries, token by token.
    """
    hooks = hooks_of(model)
    layer = between(hooks, hook_in, hook_out)
    check_layer(hooks, layer, hook_in, hook_out)
    return layer
