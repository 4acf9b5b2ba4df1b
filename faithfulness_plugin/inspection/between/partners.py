"""The features of other layers that a feature is connected with most, by virtual weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.inspection.between.stream_features import StreamFeatures

MOST = 6
"""Partners of a feature to either side."""
TARGETS_AT_A_TIME, SOURCES_AT_A_TIME, PAIRS_AT_A_TIME = 1024, 16_384, 8192


@dataclass(frozen=True)
class Partners:
    """The largest partners of each feature to one side, the largest |strength| first; -1 and 0 where there are
    fewer."""

    places: Int[np.ndarray, "d_sae most"]
    """The place among the transcoders of the one that each partner belongs to."""
    features: Int[np.ndarray, "d_sae most"]
    direct: Float[np.ndarray, "d_sae most"]
    """What an activation of 1 of the upstream feature adds to the pre-activation of the downstream one by the direct
    path."""
    skipped: Float[np.ndarray, "d_sae most"]
    """What such an activation adds through the skip connections of the transcoders between."""
    strength: Float[np.ndarray, "d_sae most"]
    """(direct + skipped) * mean activation upstream / mean activation downstream."""

    __repr__ = short_repr

    @property
    def skip_share(self) -> Float[np.ndarray, "d_sae most"]:
        """How much of the edge skip connections carry: |skipped| / (|direct| + |skipped|)."""
        whole = np.abs(self.direct) + np.abs(self.skipped)
        return np.divide(np.abs(self.skipped), whole, out=np.zeros_like(whole), where=whole > 0)


class UpAndDown(NamedTuple):
    """The partners of one transcoder's features."""

    up: Partners
    """In earlier layers: what adds to it."""
    down: Partners
    """In later layers: what it adds to."""


@torch.no_grad()
def find_partners(
    each: Sequence[StreamFeatures],
    mean_activation: Sequence[Float[np.ndarray, " _"]],
    inverse_sizes: Sequence[float],
    most: int = MOST,
) -> list[UpAndDown]:
    """Find the partners of all features of a set, up- and downstream.

    With feature i of layer l and feature j of a later layer m, s_k the size by which the norm in front of layer k
    divides, and E its mean over tokens,

        direct  = E[1 / s_m] <C (g * W_enc^j), c W_dec^i>
        whole   = E[1 / s_m] <C (g * W_enc^j), (1 + K_{m-1}) ... (1 + K_{l+1}) c W_dec^i>,
                  K_k = E[1 / s_k] c W_skip diag(g) C the skip connection of layer k from the stream to the stream
        skipped = whole - direct

    at one token, past attention. Partners are ranked by |strength|, which no scale of activations changes: the part of
    its own mean activation that the downstream feature gets from the upstream one at its mean activation. Features that
    never fire have no partners and are none. Products are made of parts of the features; no matrix [d_sae, d_sae] is.

    Args:
        each: the transcoders, in the order of their layers.
        mean_activation: of each one's features where they fire; 0 for those that never do.
        inverse_sizes: E[1 / s_k] of each layer; 1 where nothing is divided.
        most: partners of each feature to either side.

    Returns:
        The partners, transcoder by transcoder.
    """
    pairs = zip(mean_activation, each, strict=True)
    acts = [torch.from_numpy(of).to(s.transcoder.W_dec.device, s.dtype) for of, s in pairs]
    up, down = ([_Largest(of, most) for of in each] for _ in range(2))
    for m, target in enumerate(each):
        if target.norm_in is None:
            continue
        for part in _parts(target.d_sae, TARGETS_AT_A_TIME):
            # what the targets read, divided by their mean activations: [targets, d_model]
            scale = torch.where(acts[m][part] > 0, inverse_sizes[m] / acts[m][part].clamp_min(1e-30), 0.0)
            read = target.reads(part) * scale[:, None]
            for place in reversed(range(m)):
                source = each[place]
                for some in _parts(source.d_sae, SOURCES_AT_A_TIME) if source.written is not None else ():
                    strength = read @ (source.writes(some) * acts[place][some, None]).T
                    up[m].add(part, strength, place, some.start)
                    down[place].add(some, strength.T, m, part.start)
                if source.has_skip:
                    read = read + inverse_sizes[place] * source.through_skip(read)
    found: list[UpAndDown] = []
    for place in range(len(each)):
        sides = [
            largest.partners(place, each, acts, inverse_sizes, upstream=upstream)
            for largest, upstream in ((up[place], True), (down[place], False))
        ]
        found.append(UpAndDown(*sides))
    return found


def _parts(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


class _Largest:
    """The entries of a matrix [d_sae, all features of the set] with the largest absolute values in each row."""

    def __init__(self, of: StreamFeatures, most: int) -> None:
        self.most, device = most, of.transcoder.W_dec.device
        self.values = torch.zeros(of.d_sae, most, dtype=of.dtype, device=device)
        self.places = torch.full((of.d_sae, most), -1, device=device)
        self.features = torch.full((of.d_sae, most), -1, device=device)

    def add(self, rows: slice, values: Tensor, place: int, first: int) -> None:
        """Look at further entries of some rows: features of one place, from the first on."""
        top = values.abs().topk(min(self.most, values.shape[1]), dim=1).indices
        both = torch.cat([self.values[rows], values.gather(1, top)], dim=1)
        places = torch.cat([self.places[rows], torch.full_like(top, place)], dim=1)
        features = torch.cat([self.features[rows], top + first], dim=1)
        order = both.abs().topk(self.most, dim=1).indices
        self.values[rows], self.places[rows] = both.gather(1, order), places.gather(1, order)
        self.features[rows] = features.gather(1, order)

    def partners(
        self,
        place: int,
        each: Sequence[StreamFeatures],
        acts: Sequence[Tensor],
        inverse_sizes: Sequence[float],
        *,
        upstream: bool,
    ) -> Partners:
        """Compute the weights of the entries that were kept; the rows are features of `place`."""
        there = self.values != 0
        direct, skipped = torch.zeros_like(self.values), torch.zeros_like(self.values)
        for other in self.places[there].unique().tolist():
            rows, k = ((self.places == other) & there).nonzero(as_tuple=True)
            theirs = self.features[rows, k]
            (source, i), (target, j) = (
                ((other, theirs), (place, rows)) if upstream else ((place, rows), (other, theirs))
            )
            weights = inverse_sizes[target] * _products(each[target], j, each[source], i)
            direct[rows, k] = weights
            if any(of.has_skip for of in each[source + 1 : target]):
                whole = self.values[rows, k] * acts[target][j] / acts[source][i]
                skipped[rows, k] = whole - weights
        none = ~there
        arrays = (self.places.masked_fill(none, -1), self.features.masked_fill(none, -1), direct, skipped, self.values)
        return Partners(*(array.cpu().numpy() for array in arrays))


def _products(target: StreamFeatures, j: Tensor, source: StreamFeatures, i: Tensor) -> Tensor:
    """Compute <what j reads, what i writes> of pairs."""
    pairs = zip(j.split(PAIRS_AT_A_TIME), i.split(PAIRS_AT_A_TIME), strict=True)
    return torch.cat([(target.reads(js) * source.writes(some)).sum(1) for js, some in pairs])
