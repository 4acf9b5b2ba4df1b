"""What a closer look at each feature needs: how its activations are distributed, where it fires and what stands around
its tokens, and what layer and transcoder do along the direction that it reads."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.inspection.activations import Activations, read_sample, row_numbers
from faithfulness_plugin.inspection.bands import ActivationBands, activation_bands
from faithfulness_plugin.inspection.drawn_firings import DrawnFirings
from faithfulness_plugin.inspection.firing_places import FiringPlaces, PlaceCounts
from faithfulness_plugin.inspection.records import FeatureRecords
from faithfulness_plugin.inspection.sample import Origins, RowSample
from faithfulness_plugin.jacobian.active import ActiveFeatures, dot_active, sum_active
from faithfulness_plugin.jacobian.linear_region import Weights, add_skip, known_region
from faithfulness_plugin.layers.derivatives import Layer, layer_jvp

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE

BINS = 24
BEFORE, AFTER = 15, 8
"""Tokens of a context on either side of the one where the feature is most active."""
ROWS = 4096
ALONG = 2
"""Top rows of each feature at which both Jacobians' products are compared."""
RANDOM = 3
"""Rows of each feature that are shown at random, of all at which it fires."""
SHOWN = 16
"""Coordinates of a wide output that are shown: those to which the feature writes most."""


@dataclass(frozen=True)
class AlongReading:
    """At each feature's first top rows, along the unit vector v that it reads (W_enc^i / ||W_enc^i||): its part of the
    Jacobian's product, and all of it; 0 where a feature has fewer top rows."""

    coordinates: Int[np.ndarray, "d_sae shown"]
    """Coordinates of the output that the feature writes most to."""
    layer: Float[np.ndarray, "d_sae along shown"]
    """J_f v there."""
    transcoder: Float[np.ndarray, "d_sae along shown"]
    """J_t v there."""
    own: Float[np.ndarray, "d_sae shown"]
    """||W_enc^i|| W_dec^i: its own part of J_t v, where it is active."""
    gain: Float[np.ndarray, "d_sae along 3"]
    """<W_dec^i, .> / ||W_dec^i|| of J_f v, J_t v and its own part: how much the output moves along what it writes."""

    __repr__ = short_repr


@dataclass(frozen=True)
class FeatureDetails:
    """A closer look at every feature of a transcoder on a sample."""

    histogram: Int[np.ndarray, "d_sae bins"]
    """How often it was active, by activation in equal parts of (0, its maximum]."""
    bands: ActivationBands
    """Quartiles of its activations, and rows from the bands below the top."""
    windows: UInt8[np.ndarray, "d_sae shown window"] | None
    """Its activation at the tokens around each of its `shown_rows`, 255 its maximum; None for rows of no text."""
    places: FiringPlaces | None
    """How often it fires by position and by token; None for rows of no text."""
    along: AlongReading

    __repr__ = short_repr


@torch.no_grad()
def feature_details(
    transcoder: "SAE[Any]",
    layer: Layer,
    sample: RowSample,
    records: FeatureRecords,
    activations: Activations | None = None,
) -> FeatureDetails:
    """Measure each feature's activations in detail, and both derivatives along the direction that it reads.

    Takes forward-mode products at the features' top rows.

    Args:
        transcoder: with dense activations, in `eval` mode.
        layer: the function that it replaces.
        sample: the rows that the records were made on.
        records: gives each feature's top rows and largest activation.
        activations: of this transcoder on this sample; None takes one more pass over it.

    Returns:
        Histograms of activations, activations around the rows that are shown, and J_f v and J_t v at top rows.
    """
    bands = activation_bands(records.drawn, records.top_rows)
    acts = read_sample(transcoder, sample).activations if activations is None else activations
    histogram = np.zeros(records.d_sae * BINS, dtype=np.int64)
    windows = None if sample.origins is None else _Windows(sample.origins, records, bands)
    places = None if sample.origins is None else PlaceCounts(sample.origins, records.d_sae)
    for part in acts.parts(sample.memory):
        some = acts.part(part)
        row, feature, values = row_numbers(some, part.start), some.indices, some.data
        # bin k of 24 holds (k, k + 1] / 24 of the feature's maximum; bincount over [d_sae * 24]
        bins = np.ceil(values / (records.max_activation[feature] / BINS)).astype(np.int64).clip(1, BINS) - 1
        histogram += np.bincount(feature * np.int64(BINS) + bins, minlength=len(histogram))
        if windows is not None and places is not None:
            windows.add(row, feature, values)
            places.add(row, feature)
    return FeatureDetails(
        histogram=histogram.reshape(-1, BINS),
        bands=bands,
        windows=None if windows is None else windows.scaled(),
        places=None if places is None else places.places(),
        along=_along_reading(transcoder, layer, sample, records, acts),
    )


def random_firings(records: FeatureRecords) -> DrawnFirings:
    """Return rows at which each feature fires, at random: what its top rows leave out, in its own proportion.

    Args:
        records: of the features.

    Returns:
        Three rows of each, with its activations.
    """
    return records.drawn.fewer(RANDOM)


def shown_rows(records: FeatureRecords, bands: ActivationBands) -> Int[np.ndarray, "d_sae shown"]:
    """List the rows of which a page shows examples: the top rows, those of the bands, those where the feature fires and
    its near-duplicates do not, and some at random.

    Args:
        records: of the features.
        bands: of the same.

    Returns:
        Rows of the sample, -1 where there are fewer.
    """
    kinds = (records.top_rows, bands.rows.reshape(records.d_sae, -1), records.alone_rows, random_firings(records).rows)
    return np.concatenate(kinds, axis=1)


class _Windows:
    """The activations of features at the tokens around the rows that are shown."""

    def __init__(self, origins: Origins, records: FeatureRecords, bands: ActivationBands) -> None:
        rows = torch.from_numpy(shown_rows(records, bands))
        prompt, position = (each[rows.clamp_min(0)][..., None] for each in (origins.prompt, origins.position))
        # [d_sae, shown, window]: the positions around each row
        position, n_pos = position + torch.arange(-BEFORE, AFTER + 1), origins.tokens.shape[1]
        inside = (rows >= 0)[..., None] & (position >= 0) & (position < n_pos)
        # [d_sae, shown, window] rows of the sample, -1 outside the prompt or where a token is left out
        at = torch.where(inside, origins.row_at[prompt, position.clamp(0, n_pos - 1)], -1).numpy()
        # a place in the whole matrix [rows, d_sae] for each, and the windows in its order
        places = np.where(at >= 0, at * records.d_sae + np.arange(records.d_sae)[:, None, None], -1).ravel()
        self.order = places.argsort(kind="stable")
        self.places, self.values = places[self.order], np.zeros(at.shape, dtype=np.float32)
        self.maximum, self.d_sae = records.max_activation, records.d_sae

    def add(self, row: np.ndarray, feature: np.ndarray, values: np.ndarray) -> None:
        """Keep those of a part's activations that a window needs: rows ascend, and features within a row."""
        if not len(row):
            return
        known = row * self.d_sae + feature
        low, high = np.searchsorted(self.places, (known[0], known[-1] + 1))
        at = np.searchsorted(known, self.places[low:high])
        found = known[at] == self.places[low:high]
        self.values.ravel()[self.order[low:high][found]] = values[at[found]]

    def scaled(self) -> UInt8[np.ndarray, "d_sae shown window"]:
        """Return activations as parts of the feature's maximum, 255 standing for 1."""
        parts = self.values / self.maximum.clip(1e-30)[:, None, None]
        return np.ceil(parts.clip(0, 1) * 255).astype(np.uint8)


def _along_reading(
    transcoder: "SAE[Any]", layer: Layer, sample: RowSample, records: FeatureRecords, activations: Activations
) -> AlongReading:
    """Compute J_f v, J_t v and each feature's own part at its top rows, v the unit vector that it reads."""
    W_enc, W_dec = transcoder.W_enc.detach(), transcoder.W_dec.detach()
    reads, writes = nn.functional.normalize(W_enc.T, dim=1), nn.functional.normalize(W_dec, dim=1)
    sizes, device = W_enc.norm(dim=0), W_enc.device
    coordinates = W_dec.abs().topk(min(SHOWN, W_dec.shape[1]), dim=1).indices
    top_rows = torch.from_numpy(records.top_rows[:, :ALONG])
    of_layer, of_transcoder = (torch.zeros(*top_rows.shape, coordinates.shape[1]) for _ in range(2))
    gain, weights = torch.zeros(*top_rows.shape, 3), known_region(transcoder, sample.x[:1].to(W_enc)).weights
    for f, k in zip(*(each.split(ROWS) for each in (top_rows >= 0).nonzero(as_tuple=True)), strict=True):
        i, rows = f.to(device), top_rows[f, k]
        v, d, shown, at = reads[i], writes[i], coordinates[i], sample.x[rows].to(device)
        # at [some, d_in] top rows, v [some, d_in] unit reading directions; J_f v, J_t v [some, d_out]
        J_f = layer_jvp(layer, at, v.to(at))[1].to(reads)
        J_t = _jvp(weights, activations.active_at(rows, device), v)
        of_layer[f, k], of_transcoder[f, k] = (J.gather(1, shown).float().cpu() for J in (J_f, J_t))
        # <W_dec^i, .> / ||W_dec^i|| of the feature's own rank-one term, ||W_enc^i|| ||W_dec^i||
        own = (sizes * W_dec.norm(dim=1))[i]
        gain[f, k] = torch.stack([(J_f * d).sum(1), (J_t * d).sum(1), own], dim=1).float().cpu()
    own = (W_dec * sizes[:, None]).gather(1, coordinates).float().cpu()
    return AlongReading(*(each.numpy() for each in (coordinates.cpu(), of_layer, of_transcoder, own, gain)))


def _jvp(weights: Weights, active: ActiveFeatures, v: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows d_out"]:
    """Compute J_t v = sum over active i of (W_enc^i . v) W_dec^i (+ W_skip v)."""
    read = dot_active(v.contiguous(), active, weights.W_enc.T.contiguous())
    return add_skip(sum_active(read, active, weights.W_dec.contiguous()), v, weights.W_skip)
