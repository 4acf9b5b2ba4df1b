"""What a closer look at each feature needs: how its activations are distributed, where it fires and what stands around
its tokens, and what layer and transcoder do along the direction that it reads."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.inspection.bands import ActivationBands, activation_bands
from faithfulness_plugin.inspection.firing_places import FiringPlaces, PlaceCounts
from faithfulness_plugin.inspection.hooked_reading import acts_at, rows_of
from faithfulness_plugin.inspection.records import FeatureRecords
from faithfulness_plugin.inspection.sample import Origins, RowSample
from faithfulness_plugin.jacobian.active import dot_active, sum_active
from faithfulness_plugin.jacobian.linear_region import add_skip, known_region
from faithfulness_plugin.layers.derivatives import Layer, layer_jvp

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE

BINS = 24
BEFORE, AFTER = 15, 8
"""Tokens of a context on either side of the one where the feature is most active."""
ROWS = 4096
SHOWN = 16
"""Coordinates of a wide output that are shown: those to which the feature writes most."""


@dataclass(frozen=True)
class AlongReading:
    """At each feature's top rows, along the unit vector v that it reads (W_enc^i / ||W_enc^i||): its part of the
    Jacobian's product, and all of it; 0 where a feature has fewer top rows."""

    coordinates: Int[np.ndarray, "d_sae shown"]
    """Coordinates of the output that the feature writes most to."""
    layer: Float[np.ndarray, "d_sae top shown"]
    """J_f v there."""
    transcoder: Float[np.ndarray, "d_sae top shown"]
    """J_t v there."""
    own: Float[np.ndarray, "d_sae shown"]
    """||W_enc^i|| W_dec^i: its own part of J_t v, where it is active."""
    gain: Float[np.ndarray, "d_sae top 3"]
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
def feature_details(transcoder: "SAE[Any]", layer: Layer, sample: RowSample, records: FeatureRecords) -> FeatureDetails:
    """Measure each feature's activations in detail, and both derivatives along the direction that it reads.

    Takes one more pass over the sample, and forward-mode products at the features' top rows.

    Args:
        transcoder: with dense activations, in `eval` mode.
        layer: the function that it replaces.
        sample: the rows that the records were made on.
        records: gives each feature's top rows and largest activation.

    Returns:
        Histograms of activations, activations around the rows that are shown, and J_f v and J_t v at top rows.
    """
    bands = activation_bands(records.drawn, records.top_rows)
    histogram = np.zeros(records.d_sae * BINS, dtype=np.int64)
    maximum = torch.from_numpy(records.max_activation)
    windows = None if sample.origins is None else _Windows(sample.origins, records, bands)
    places = None if sample.origins is None else PlaceCounts(sample.origins, records.d_sae)
    for part, x in rows_of(sample, transcoder):
        acts = acts_at(transcoder, x)
        # only active entries of acts [some_rows, d_sae] are counted
        row, feature = acts.nonzero(as_tuple=True)
        values, row, feature = acts[row, feature].double().cpu(), row.cpu(), feature.cpu()
        # bin k of 24 holds (k, k + 1] / 24 of the feature's maximum; bincount over [d_sae * 24]
        bins = (values / (maximum[feature] / BINS)).ceil().long().clamp(1, BINS) - 1
        histogram += np.bincount((feature * BINS + bins).numpy(), minlength=len(histogram))
        if windows is not None and places is not None:
            windows.add(part, acts)
            places.add(row + part.start, feature)
    return FeatureDetails(
        histogram=histogram.reshape(-1, BINS),
        bands=bands,
        windows=None if windows is None else windows.scaled(),
        places=None if places is None else places.places(),
        along=_along_reading(transcoder, layer, sample, records),
    )


def shown_rows(records: FeatureRecords, bands: ActivationBands) -> Int[np.ndarray, "d_sae shown"]:
    """List the rows of which a page shows examples: the top rows, those of the bands, and those where the feature fires
    and its near-duplicates do not.

    Args:
        records: of the features.
        bands: of the same.

    Returns:
        Rows of the sample, -1 where there are fewer.
    """
    return np.concatenate([records.top_rows, bands.rows.reshape(records.d_sae, -1), records.alone_rows], axis=1)


class _Windows:
    """The activations of features at the tokens around the rows that are shown."""

    def __init__(self, origins: Origins, records: FeatureRecords, bands: ActivationBands) -> None:
        rows = torch.from_numpy(shown_rows(records, bands))
        prompt, position = (each[rows.clamp_min(0)][..., None] for each in (origins.prompt, origins.position))
        # [d_sae, shown, window]: the positions around each row
        position, n_pos = position + torch.arange(-BEFORE, AFTER + 1), origins.tokens.shape[1]
        inside = (rows >= 0)[..., None] & (position >= 0) & (position < n_pos)
        # [d_sae, shown, window] rows of the sample, -1 outside the prompt or where a token is left out
        at = torch.where(inside, origins.row_at[prompt, position.clamp(0, n_pos - 1)], -1)
        self.values = torch.zeros(at.shape)
        self.maximum = torch.from_numpy(records.max_activation)
        self.order = at.flatten().argsort(stable=True)
        self.rows = at.flatten()[self.order].contiguous()

    def add(self, part: slice, acts: Tensor) -> None:
        """Keep the activations [rows, d_sae] of one part of the sample where a window needs them."""
        low, high = torch.searchsorted(self.rows, torch.tensor([part.start, part.stop])).tolist()
        places = self.order[low:high]
        index = (self.rows[low:high] - part.start, places // self.values[0].numel())  # row and feature
        self.values.view(-1)[places] = acts[tuple(each.to(acts.device) for each in index)].float().cpu()

    def scaled(self) -> Any:
        """Return activations as parts of the feature's maximum, 255 standing for 1."""
        parts = self.values.double() / self.maximum.clamp_min(1e-30)[:, None, None]
        return (parts.clamp(0, 1) * 255).ceil().to(torch.uint8).numpy()


def _along_reading(transcoder: "SAE[Any]", layer: Layer, sample: RowSample, records: FeatureRecords) -> AlongReading:
    """Compute J_f v, J_t v and each feature's own part at its top rows, v the unit vector that it reads."""
    W_enc, W_dec = transcoder.W_enc.detach(), transcoder.W_dec.detach()
    reads, writes = nn.functional.normalize(W_enc.T, dim=1), nn.functional.normalize(W_dec, dim=1)
    sizes, device = W_enc.norm(dim=0), W_enc.device
    coordinates = W_dec.abs().topk(min(SHOWN, W_dec.shape[1]), dim=1).indices
    of_layer, of_transcoder = (torch.zeros(*records.top_rows.shape, coordinates.shape[1]) for _ in range(2))
    gain = torch.zeros(*records.top_rows.shape, 3)
    top_rows = torch.from_numpy(records.top_rows)
    for f, k in zip(*(each.split(ROWS) for each in (top_rows >= 0).nonzero(as_tuple=True)), strict=True):
        i, at = f.to(device), sample.x[top_rows[f, k]].to(device)
        v, d, shown = reads[i], writes[i], coordinates[i]
        # at [some, d_in] top rows, v [some, d_in] unit reading directions; J_f v, J_t v [some, d_out]
        J_f, J_t = layer_jvp(layer, at, v.to(at))[1].to(reads), _jvp(transcoder, at.to(reads), v)
        of_layer[f, k], of_transcoder[f, k] = (J.gather(1, shown).float().cpu() for J in (J_f, J_t))
        # <W_dec^i, .> / ||W_dec^i|| of the feature's own rank-one term, ||W_enc^i|| ||W_dec^i||
        own = (sizes * W_dec.norm(dim=1))[i]
        gain[f, k] = torch.stack([(J_f * d).sum(1), (J_t * d).sum(1), own], dim=1).float().cpu()
    own = (W_dec * sizes[:, None]).gather(1, coordinates).float().cpu()
    return AlongReading(*(each.numpy() for each in (coordinates.cpu(), of_layer, of_transcoder, own, gain)))


def _jvp(transcoder: "SAE[Any]", x: Tensor, v: Tensor) -> Tensor:
    """Compute J_t v by active features alone."""
    # J_t v = sum over active i of (W_enc^i . v) W_dec^i (+ W_skip v)
    region = known_region(transcoder, x, gate=acts_at(transcoder, x))
    active, (W_enc, W_dec, *_) = region.active(), region.weights
    through = sum_active(dot_active(v.contiguous(), active, W_enc.T.contiguous()), active, W_dec.contiguous())
    return add_skip(through, v, region.weights.W_skip)
