"""The layers of a model that transcoders stand for, and those that none does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.layers.any_model import hooks_of
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hooks
from faithfulness_plugin.layers.replaced_layer import layer_of
from faithfulness_plugin.layers.spliced import stages_after
from faithfulness_plugin.transcoders.layer_views import LayerView


@dataclass(frozen=True)
class ReplacedLayers:
    """Every block's MLP, and the transcoders that stand for some or all of them."""

    hooks: Hooks
    stream: list[str]
    """The residual stream, by name: what the first block reads, and what each block puts out."""
    layers: list[HookedLayer]
    """What is replaced in each block: the layer of its transcoder, or its MLP, whose output is then a constant."""
    transcoders: Mapping[int, Any]
    """By block."""

    __repr__ = short_repr

    @property
    def without(self) -> list[int]:
        """The blocks for which there is no transcoder: all of their output counts as error."""
        return [block for block in range(len(self.layers)) if block not in self.transcoders]


def replaced_layers(model: nn.Module | Hooks, transcoders: Mapping[int, Any]) -> ReplacedLayers:
    """Find and check the layers that transcoders replace, one in each block.

    Args:
        model: a HookedTransformer, a TransformerBridge, a Hugging Face model, or its `Hooks`.
        transcoders: one for each of some or all blocks, by the block's number; for a cross-layer transcoder its
            `layer_views`. Their metadata may name the tensors that they read and write; otherwise the block's MLP is
            meant.

    Returns:
        The layers of all blocks.

    Raises:
        UsageError: no transcoders; a block that the model does not have; a transcoder that says another block; one that
            reads and writes the same tensor; as `layer_of`, for a layer that the model does not compute.
    """
    hooks = hooks_of(model)
    if not transcoders:
        raise UsageError("no transcoders: pass one for each block that is to be replaced, by its number")
    stages = stages_after(hooks, hooks.mlp(0))
    if outside := [block for block in transcoders if not 0 <= block < len(stages)]:
        raise UsageError(f"block {outside[0]}: the model has the blocks 0 to {len(stages) - 1}")
    layers = [_layer(hooks, block, transcoders.get(block)) for block in range(len(stages))]
    for block in transcoders:
        if layers[block].hook_in == layers[block].hook_out:
            raise UsageError(
                f"the transcoder of block {block} reads and writes {layers[block].hook_in}: a graph needs transcoders "
                "that write what they do not read"
            )
    return ReplacedLayers(hooks, ["blocks.0.hook_resid_pre", *stages], layers, transcoders)


def _layer(hooks: Hooks, block: int, transcoder: Any | None) -> HookedLayer:
    if transcoder is None:
        return hooks.mlp(block)
    if isinstance(transcoder, LayerView):
        hook_in, hook_out = transcoder.hook_names
        if hook_in is None or hook_out is None:
            return hooks.mlp(block)
        where = f"blocks.{block}."
        return layer_of(hooks, [], block=block, hook_in=where + hook_in, hook_out=where + hook_out)
    return layer_of(hooks, [transcoder], block=block)
