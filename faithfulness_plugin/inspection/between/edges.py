"""What the features of a set's transcoders have to do with those of other layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.inspection.between.firing_bits import FiringBits
from faithfulness_plugin.inspection.between.interference import Interference, measure_interference
from faithfulness_plugin.inspection.between.partners import MOST, Partners, find_partners
from faithfulness_plugin.inspection.between.shared_rows import ROWS, SharedRows
from faithfulness_plugin.inspection.between.stream_features import StreamFeatures
from faithfulness_plugin.inspection.hooked_reading import acts_at
from faithfulness_plugin.inspection.layer_vocabulary import LayerVocabulary
from faithfulness_plugin.inspection.sample import MEMORY, Origins
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hooks


@dataclass(frozen=True)
class InLayer:
    """One transcoder of a set, in its layer."""

    layer: HookedLayer
    vocabulary: LayerVocabulary | None
    features: StreamFeatures
    mean_activation: Float[np.ndarray, " d_sae"]
    """What each feature's activation is on average over the rows of the sample where it fires."""

    __repr__ = short_repr


@dataclass(frozen=True)
class FeatureEdges:
    """Partners of one transcoder's features in the layers before and behind it."""

    up: Partners
    down: Partners
    up_together: Float[np.ndarray, "d_sae most"]
    """On which share of the feature's firings the partner fires, at the same token."""
    down_together: Float[np.ndarray, "d_sae most"]
    """On which share of the partner's firings the feature fires."""
    interference: Interference | None
    """None where the layer reads no norm of the residual stream."""
    inverse_size: float
    """The mean of 1 / size over tokens, by which weights are multiplied."""
    n_rows: int
    """Tokens on which firings were compared."""

    __repr__ = short_repr


@torch.no_grad()
def feature_edges(
    hooks: Hooks,
    each: Sequence[InLayer],
    origins: Sequence[Origins],
    *,
    most: int = MOST,
    memory: float = MEMORY,
    rows: int = ROWS,
    on_pass: Callable[[str], None] = lambda _: None,
) -> list[FeatureEdges]:
    """Find partners, where they fire together, and interference, for all transcoders of a set.

    The model is run twice on some prompts of the sample, in both runs as far as the last layer.

    Args:
        hooks: the model's.
        each: the transcoders, in the order of their layers.
        origins: the sample's tokens, and which of them count for each layer.
        most: partners of each feature to either side.
        memory: GiB; rows, activations and bits of all features take half of it, beside the transcoders.
        rows: tokens to look at.
        on_pass: receives a line before each part.

    Returns:
        The edges, transcoder by transcoder.

    Raises:
        UsageError: no token counts for all of the layers.
    """
    kept = _kept_by_all(origins)
    shared = SharedRows.of(
        hooks,
        [of.layer for of in each],
        [None if of.vocabulary is None else of.vocabulary.stream for of in each],
        origins[0].tokens,
        kept,
        width=sum(of.features.d_sae + 2 * len(of.features.transcoder.W_enc) for of in each),
        memory=memory,
        most=rows,
    )
    if not shared.kept.any():
        raise UsageError("no token counts for all layers of the set: look at more text, or leave fewer rows out")
    features = [of.features for of in each]
    on_pass("where features of all layers fire")
    bits, inverse_sizes = _look(features, shared)
    on_pass("virtual weights")
    partners = find_partners(features, [of.mean_activation for of in each], inverse_sizes, most)
    on_pass("what reaches features by others")
    found = measure_interference(features, [up for up, _ in partners], shared.parts())
    n_rows = int(shared.kept.sum())
    return [
        FeatureEdges(
            up=up,
            down=down,
            up_together=bits.together(place, up.places, up.features, of="up"),
            down_together=bits.together(place, down.places, down.features, of="down"),
            interference=found[place],
            inverse_size=inverse_sizes[place],
            n_rows=n_rows,
        )
        for place, (up, down) in enumerate(partners)
    ]


def _kept_by_all(origins: Sequence[Origins]) -> Bool[Tensor, "prompts pos"]:
    kept = origins[0].row_at >= 0
    for other in origins[1:]:
        if not other.tokens.equal(origins[0].tokens):
            raise UsageError("the transcoders were looked at on different text: inspect all of them on one")
        kept = kept & (other.row_at >= 0)
    return kept


def _look(features: Sequence[StreamFeatures], shared: SharedRows) -> tuple[FiringBits, list[float]]:
    """Return where features fire, and the mean of 1 / size in front of each layer."""
    bits, totals, n = FiringBits(len(features)), [0.0] * len(features), 0
    for part in shared.parts():
        n += len(part[0].x)
        for place, (of, at) in enumerate(zip(features, part, strict=True)):
            W_dec = of.transcoder.W_dec
            bits.add(place, (acts_at(of.transcoder, at.x.to(W_dec)) > 0).cpu().numpy())
            if at.stream is not None and of.norm_in is not None:
                totals[place] += of.norm_in.sizes(at.stream.double()).reciprocal().sum().item()
    return bits, [total / n if total else 1.0 for total in totals]
