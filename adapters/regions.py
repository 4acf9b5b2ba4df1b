"""Linear regions of other libraries' transcoders: what their classes have in common."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from faithfulness_plugin.jacobian.active import ActiveFeatures, dot_active
from faithfulness_plugin.jacobian.linear_region import LinearRegion, Weights, linear_region, region_of_activations
from faithfulness_plugin.jacobian.sparse_region import SparseRegion

Encoded = Callable[[Any, Tensor], LinearRegion | None]


def register_regions(*classes: type, weights: Callable[[Any], Weights]) -> Callable[[Encoded], Encoded]:
    """Decorate the function that encodes x with a transcoder of these classes: `linear_region` then knows them.

    Given activations or a region of x it encodes nothing, and takes the weights of the transcoder.

    Args:
        classes: another library's transcoders.
        weights: reads a transcoder's weights.

    Returns:
        The decorator, which returns the function unchanged.
    """

    def registered(encoded: Encoded) -> Encoded:
        def region(
            transcoder: Any,
            x: Tensor,
            *,
            gate: Tensor | LinearRegion | None = None,
            gate_bandwidth: float | None = None,
        ) -> LinearRegion | None:
            if gate is None and gate_bandwidth is None:
                return encoded(transcoder, x)
            return region_of_activations(x if gate is None else gate, x, weights(transcoder), gate_bandwidth)

        for one in classes:
            linear_region.register(one, region)
        return encoded

    return registered


def topk_region(
    x: Float[Tensor, "*batch d_in"],
    weights: Weights,
    encoder: nn.Linear,
    centred: Float[Tensor, "rows d_in"],
    indices: Int[Tensor, "rows k"],
) -> SparseRegion:
    """Build the region of k features a row, with activations that have a gradient.

    Args:
        x: rows of the layer's input.
        weights: the transcoder's.
        encoder: its encoder.
        centred: the rows that the encoder multiplies: x without a bias, if one is subtracted.
        indices: the features of each row.

    Returns:
        The region at x.
    """
    entries = ActiveFeatures.same_count(indices, encoder.out_features)
    acts = dot_active(centred, entries, encoder.weight) + encoder.bias[entries.features]
    return SparseRegion(x, weights, acts.relu(), entries)
