"""The layer that each transcoder of a run learns from: given or named by a hook, checked once, shared by arms."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

from faithfulness_plugin.layers.any_model import mlp_layer
from faithfulness_plugin.layers.check_layer import check_layer
from faithfulness_plugin.layers.derivatives import layer_output
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hooks
from faithfulness_plugin.layers.shared_layer import SharedLayer
from faithfulness_plugin.transcoders.base import TrainingTranscoder

AT_AN_MLP = re.compile(r"blocks\.(\d+)\.(hook_mlp_out|hook_mlp_in|mlp\.hook_in|mlp\.hook_out|ln2\.hook_normalized)")


def own_layers(
    hooks: Hooks,
    transcoders: Mapping[str, TrainingTranscoder[Any]],
    named: Mapping[str, str],
    given: HookedLayer | Mapping[str, HookedLayer] | None,
) -> tuple[dict[str, HookedLayer], list[HookedLayer]]:
    """Set the layer of every transcoder. Those that learn from the same one share its answers about a batch.

    Args:
        hooks: the model's.
        transcoders: by name.
        named: the hook that the settings name for each.
        given: the layer, or several by name; None for the MLP at the hook.

    Returns:
        By name, the layer with a clock of its own; and all layers that are asked, shared ones included.

    Raises:
        ValueError: a hook that does not exist or is at no MLP, a layer that the model does not compute there, widths
            that do not fit.
    """
    checked: dict[Any, HookedLayer] = {}
    keys: dict[str, Any] = {}
    for name in transcoders:
        of = given.get(name) if isinstance(given, Mapping) else given
        key = keys[name] = named[name] if of is None else of
        if key not in checked:
            checked[key] = _layer(hooks, of, named[name])
    arms, turn = Counter(keys.values()), list[SharedLayer]()
    shared = {key: SharedLayer(layer, turn) for key, layer in checked.items() if arms[key] > 1}
    found: dict[str, HookedLayer] = {}
    for name, transcoder in transcoders.items():
        found[name] = checked[keys[name]].copy()
        transcoder.set_layer(shared.get(keys[name], found[name]))
        _require_widths(name, transcoder, found[name])
    return found, [*found.values(), *shared.values()]


def _layer(hooks: Hooks, given: HookedLayer | None, hook_name: str) -> HookedLayer:
    """Return the layer that was given, checked, or the MLP at whose input or output the hook is. Raises ValueError for
    a hook that does not exist or is at none."""
    if given is not None:
        check_layer(hooks, given, given.hook_in, given.hook_out)
        return given
    hooks.require(hook_name)
    if (match := AT_AN_MLP.fullmatch(hook_name)) is None:
        raise ValueError(
            f"{hook_name} is neither the input nor the output of an MLP, so which layer is meant? Pass "
            f'layer=layer_between(model, "{hook_name}", hook_out)'
        )
    return mlp_layer(hooks, int(match[1]))


def _require_widths(name: str, transcoder: TrainingTranscoder[Any], layer: HookedLayer) -> None:
    cfg = transcoder.cfg
    try:
        d_out = layer_output(layer, torch.zeros(2, cfg.d_in, device=cfg.device)).shape[-1]
    except RuntimeError as error:
        raise ValueError(
            f"{name}: the layer {layer} does not take rows of d_in={cfg.d_in} ({str(error).splitlines()[0]}): set d_in "
            f"to the width at {layer.hook_in}"
        ) from error
    if d_out != cfg.d_out:
        raise ValueError(f"{name}: the layer {layer} puts out {d_out} numbers a row, not d_out={cfg.d_out}: set d_out")
