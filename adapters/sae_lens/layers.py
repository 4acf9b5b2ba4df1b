"""From the name of a hook to the layer that a transcoder there replaces."""

import re
from collections.abc import Sequence
from typing import Any

from faithfulness_plugin.adapters.hooked_layer import HookedLayer
from faithfulness_plugin.adapters.transformer_lens import TransformerLensHooks, layer_between, mlp_layer

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


def layer_of(
    model: Any,
    transcoders: Sequence[Any],
    *,
    block: int | None = None,
    hook_in: str | None = None,
    hook_out: str | None = None,
) -> HookedLayer:
    """The layer between the hooks that are named, else the MLP of the block, else the one that the transcoders' own
    metadata name. Raises ValueError where there is none such, or they name none or several."""
    if hook_in is not None and hook_out is not None:
        return layer_between(model, hook_in, hook_out)
    if block is not None:
        try:
            return mlp_layer(model, block)
        except (ValueError, IndexError) as error:
            raise ValueError(f"block {block}: {error}") from error
    said = {getattr(t.cfg.metadata, "hook_name", None) for t in transcoders}
    if len(said) != 1 or None in said:
        names = ", ".join(sorted(str(name) for name in said))
        raise ValueError(f"which layer do the transcoders replace? Their metadata say {names}")
    written = {getattr(t.cfg.metadata, "hook_name_out", None) for t in transcoders} - {None}
    if len(written) > 1:
        raise ValueError(f"the transcoders write at different places: {', '.join(sorted(map(str, written)))}")
    return _between(model, str(said.pop()), next(iter(written), None))


def _between(model: Any, hook_in: str, hook_out: str | None) -> HookedLayer:
    """The MLP where these are its own hooks, else whatever the model computes between them (the MLP with its norm, for
    one that was read before it)."""
    hooks = TransformerLensHooks(model)
    if OF_AN_MLP.fullmatch(hook_in):
        mlp = layer_at(model, hook_in)
        theirs = None if hook_out is None else hooks.own_name(hook_out)
        if hooks.own_name(hook_in) in (mlp.hook_in, mlp.hook_out) and theirs in (None, mlp.hook_out):
            return mlp
        hook_out = hook_out or mlp.hook_out
    if hook_out is None:
        raise ValueError(f"the transcoders say that they read at {hook_in}, and not where they write")
    return layer_between(model, hook_in, hook_out)
