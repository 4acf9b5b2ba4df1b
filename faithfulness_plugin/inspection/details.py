"""What a closer look at each feature needs: how its activations are distributed, what stands around its tokens, and
what layer and transcoder do along the direction that it reads."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from faithfulness_plugin.inspection.records import FeatureRecords, activations_at, rows_of
from faithfulness_plugin.inspection.sample import Origins, RowSample
from faithfulness_plugin.jacobian.active import dot_active, sum_active
from faithfulness_plugin.jacobian.linear_region import add_skip, linear_region
from faithfulness_plugin.layers.derivatives import Layer, layer_jvp

BINS = 24
BEFORE, AFTER = 15, 8
"""Tokens of a context on either side of the one where the feature is most active."""
ROWS = 4096
SHOWN = 16
"""Coordinates of a wide output that are shown: those to which the feature writes most."""


@dataclass(frozen=True)
class FeatureDetails:
    """Of every feature of a transcoder on a sample."""

    histogram: Int[np.ndarray, "d_sae bins"]
    """How often it was active, by activation in equal parts of (0, its maximum]."""
    windows: UInt8[np.ndarray, "d_sae top window"] | None
    """Its activation at the tokens around each of its top rows, 255 its maximum; None for rows of no text."""
    along: "AlongReading"


@dataclass(frozen=True)
class AlongReading:
    """At each feature's top rows, along the unit vector v that it reads (W_enc^i / ||W_enc^i||): its part of the
    Jacobian's product, and all of it."""

    coordinates: Int[np.ndarray, "d_sae shown"]
    """Of the output: those that the feature writes most to."""
    layer: Float[np.ndarray, "d_sae top shown"]
    """J_f v there."""
    transcoder: Float[np.ndarray, "d_sae top shown"]
    """J_t v there."""
    own: Float[np.ndarray, "d_sae shown"]
    """||W_enc^i|| W_dec^i: its own part of J_t v, where it is active."""
    gain: Float[np.ndarray, "d_sae top 3"]
    """<W_dec^i, .> / ||W_dec^i|| of J_f v, J_t v and its own part: how much the output moves along what it writes."""


@torch.no_grad()
def feature_details(transcoder: Any, layer: Layer, sample: RowSample, records: FeatureRecords) -> FeatureDetails:
    """One more pass over the sample, and the layer's derivatives at the features' top rows."""
    d_sae = records.d_sae
    histogram = np.zeros(d_sae * BINS, dtype=np.int64)
    width = torch.from_numpy(records.max_activation / BINS)
    around = None if sample.origins is None else _Windows(sample.origins, records)
    for part, x in rows_of(sample, transcoder):
        acts = activations_at(transcoder, x)
        row, feature = acts.nonzero(as_tuple=True)
        values = acts[row, feature].double().cpu()
        of = feature.cpu()
        bins = (values / width[of]).ceil().long().clamp(1, BINS) - 1
        histogram += np.bincount((of * BINS + bins).numpy(), minlength=len(histogram))
        if around is not None:
            around.add(part, acts)
    return FeatureDetails(
        histogram=histogram.reshape(d_sae, BINS),
        windows=None if around is None else around.scaled(),
        along=along_reading(transcoder, layer, sample, records),
    )


class _Windows:
    """The activations of features at the tokens around their top rows."""

    def __init__(self, origins: Origins, records: FeatureRecords) -> None:
        rows = torch.from_numpy(records.top_rows)
        some = rows.clamp_min(0)
        n_pos = origins.tokens.shape[1]
        position = origins.position[some][..., None] + torch.arange(-BEFORE, AFTER + 1)
        inside = (rows >= 0)[..., None] & (position >= 0) & (position < n_pos)
        at = origins.row_at[origins.prompt[some][..., None], position.clamp(0, n_pos - 1)]
        self.at = torch.where(inside, at, -1)
        self.values = torch.zeros(self.at.shape)
        self.maximum = torch.from_numpy(records.max_activation)
        order = self.at.flatten().argsort(stable=True)
        self.order, self.sorted = order, self.at.flatten()[order].contiguous()
        self.per_feature = self.at[0].numel()

    def add(self, part: slice, acts: Tensor) -> None:
        low, high = torch.searchsorted(self.sorted, torch.tensor([part.start, part.stop])).tolist()
        places = self.order[low:high]
        found = acts[(self.sorted[low:high] - part.start).to(acts.device), (places // self.per_feature).to(acts.device)]
        self.values.view(-1)[places] = found.float().cpu()

    def scaled(self) -> Any:
        parts = self.values.double() / self.maximum.clamp_min(1e-30)[:, None, None]
        return (parts.clamp(0, 1) * 255).ceil().to(torch.uint8).numpy()


@torch.no_grad()
def along_reading(transcoder: Any, layer: Layer, sample: RowSample, records: FeatureRecords) -> AlongReading:
    """See `AlongReading`; 0 where a feature has fewer top rows."""
    W_enc, W_dec = transcoder.W_enc.detach(), transcoder.W_dec.detach()
    reads, writes = nn.functional.normalize(W_enc.T, dim=1), nn.functional.normalize(W_dec, dim=1)
    sizes = W_enc.norm(dim=0)
    shown = min(SHOWN, W_dec.shape[1])
    coordinates = W_dec.abs().topk(shown, dim=1).indices
    d_sae, top = records.top_rows.shape
    of_layer, of_transcoder = torch.zeros(d_sae, top, shown), torch.zeros(d_sae, top, shown)
    gain = torch.zeros(d_sae, top, 3)
    feature, place = np.nonzero(records.top_rows >= 0)
    for start in range(0, len(feature), ROWS):
        f, k = (torch.from_numpy(each[start : start + ROWS]) for each in (feature, place))
        at, v = sample.x[torch.from_numpy(records.top_rows)[f, k]].to(reads.device), reads[f.to(reads.device)]
        J_f, J_t = layer_jvp(layer, at, v.to(at))[1].to(reads), _jvp(transcoder, at.to(reads), v)
        d, of = writes[f.to(reads.device)], coordinates[f.to(reads.device)]
        of_layer[f, k], of_transcoder[f, k] = J_f.gather(1, of).float().cpu(), J_t.gather(1, of).float().cpu()
        own = (sizes * W_dec.norm(dim=1))[f.to(reads.device)]
        gain[f, k] = torch.stack([(J_f * d).sum(1), (J_t * d).sum(1), own], dim=1).float().cpu()
    own = (W_dec * sizes[:, None]).gather(1, coordinates)
    return AlongReading(
        coordinates.cpu().numpy(), of_layer.numpy(), of_transcoder.numpy(), own.float().cpu().numpy(), gain.numpy()
    )


def _jvp(transcoder: Any, x: Tensor, v: Tensor) -> Tensor:
    """J_t v by active features alone."""
    region = linear_region(transcoder, x, gate=activations_at(transcoder, x))
    assert region is not None  # or there were no records
    active, (W_enc, W_dec, *_) = region.active(), region.weights
    through = sum_active(dot_active(v.contiguous(), active, W_enc.T.contiguous()), active, W_dec.contiguous())
    return add_skip(through, v, region.weights.W_skip)
