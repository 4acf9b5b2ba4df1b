"""The features of a cross-layer transcoder write to later layers as well: this finds their decoders."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.transcoders.layer_views import LayerView


def decoders_to_later(transcoders: Mapping[int, Any]) -> dict[int, dict[int, Float[Tensor, "d_sae d_out"]]]:
    """Find what features write to blocks behind their own.

    Args:
        transcoders: by block; those of a cross-layer transcoder are its `layer_views`.

    Returns:
        For each block that has a view the decoders to later blocks, by block.

    Raises:
        UsageError: views of a cross-layer transcoder of which one is missing, or that are not in their order.
    """
    views = {block: of for block, of in sorted(transcoders.items()) if isinstance(of, LayerView)}
    found = {}
    for block, view in views.items():
        blocks = [other for other, of in views.items() if of.whole is view.whole]
        layers = [views[other].layer for other in blocks]
        if layers != list(range(view.whole.n_layers)):
            raise UsageError(
                f"blocks {blocks} have the layers {layers} of a cross-layer transcoder of {view.whole.n_layers}: pass "
                "all of its layer_views, in the order of the blocks"
            )
        found[block] = dict(zip(blocks[view.layer + 1 :], view.W_dec_later, strict=False))  # within the bandwidth
    return found
