"""What each feature of a transcoder reads, writes and does to the Jacobian: a record a feature, read through hooks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array
from torch import Tensor, nn
from typing_extensions import override

from faithfulness_plugin.display import NotebookTable, line
from faithfulness_plugin.inspection.activations import SampleReading, read_sample
from faithfulness_plugin.inspection.alone import AloneRows
from faithfulness_plugin.inspection.datapoint_score import FLAGGED, DatapointScores, DatapointSums
from faithfulness_plugin.inspection.drawn_firings import DrawnFirings, FiringDraw
from faithfulness_plugin.inspection.faithfulness import FeatureFaithfulness, feature_faithfulness
from faithfulness_plugin.inspection.hooked_reading import require_fit
from faithfulness_plugin.inspection.hooked_transcoder import hooked
from faithfulness_plugin.inspection.sample import RowSample
from faithfulness_plugin.inspection.top_rows import TopRows
from faithfulness_plugin.jacobian.active import ActiveFeatures, dot_active
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.metrics.circuit_projection import Circuit, live_circuits, norms_and_cosines

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    import pandas as pd
    from sae_lens import SAE

CIRCUIT_ROWS = 20_000


@dataclass(frozen=True)
class FeatureRecords(NotebookTable):
    """Arrays [d_sae], a number a feature, on one sample."""

    n_rows: int
    firing_rate: Float[np.ndarray, " d_sae"]
    """The share of rows with a_i > 0."""
    mean_activation: Float[np.ndarray, " d_sae"]
    """The mean of a_i where it is active; 0 for a feature that never is."""
    max_activation: Float[np.ndarray, " d_sae"]
    written: Float[np.ndarray, " d_sae"]
    """The share of what all features write: E a_i ||W_dec^i|| / sum_j E a_j ||W_dec^j||."""
    carried: Float[np.ndarray, " d_sae"]
    """The share of the layer's output that it explains: E <a_i W_dec^i, f - E f> / E||f - E f||^2. Negative where it
    writes against the layer."""
    jacobian_share: Float[np.ndarray, " d_sae"]
    """E <g_i W_dec^i (x) W_enc^i, J_t> / E||J_t||_F^2, g_i its gate (see `jacobian_by_feature`); with the skip
    connection's they sum to 1."""
    masking: Float[np.ndarray, " d_sae"]
    """||W_enc^i|| / mean activation: slope for what it writes. Large for a feature that moves the Jacobian and writes
    next to nothing."""
    datapoint: DatapointScores
    top_rows: Int[np.ndarray, "d_sae top"]
    """Where it is most active, one row of each group of near-duplicates; -1 where there are fewer."""
    top_activations: Float[np.ndarray, "d_sae top"]
    drawn: DrawnFirings
    """Rows at which it fires, at random."""
    near: Int[np.ndarray, " d_sae"]
    """How many near-duplicates it has among the features (see `near_duplicate_pairs`)."""
    alone_rows: Int[np.ndarray, "d_sae alone"]
    """Where it is most active while none of its near-duplicates is; -1 where there are fewer, or it has none."""
    alone_activations: Float[np.ndarray, "d_sae alone"]
    faithfulness: FeatureFaithfulness | None = None
    """None where the layer was not given."""
    circuits: tuple[str, ...] = ()
    """The layer's ideal circuits, where they are known."""
    nearest_circuit: Int[np.ndarray, " d_sae"] | None = None
    """The circuit whose contributions are most like the feature's; -1 for a feature that never fires."""
    circuit_cosine: Float[np.ndarray, " d_sae"] | None = None
    fvu: float = nan
    """The transcoder's on this sample; NaN where the layer's output is the same on all rows."""
    l0: float = 0.0

    @property
    def unbacked(self) -> Float[np.ndarray, " d_sae"]:
        """carried * (1 - faithfulness): the share of the layer's output that it writes without the layer moving so. 0
        for features that carry nothing, and where the layer was not given."""
        if self.faithfulness is None:
            return np.zeros(self.d_sae)
        return self.carried.clip(0) * (1 - np.nan_to_num(self.faithfulness.faithfulness, nan=1.0))

    def least_faithful(self, most: int = 10) -> Int[np.ndarray, " most_or_fewer"]:
        """Rank the least faithful features that matter most, by `unbacked`.

        Args:
            most: features to return.

        Returns:
            Their indices, the largest first; those with nothing unbacked are left out.
        """
        order = np.argsort(-self.unbacked, kind="stable")[:most]
        return order[self.unbacked[order] > 0]

    def __repr__(self) -> str:
        found = {"n_rows": self.n_rows, "d_sae": self.d_sae, "fvu": self.fvu, "l0": self.l0}
        return line("FeatureRecords", {**found, "dead": int(self.dead.sum()), "flagged": int(self.flagged.sum())})

    @override
    def to_frame(self) -> "pd.DataFrame":
        """Return `feature_table`, the features with the highest datapoint scores first."""
        from faithfulness_plugin.inspection.export import feature_table

        return feature_table(self).sort_values("datapoint_score", ascending=False, kind="stable")

    @property
    def d_sae(self) -> int:
        return len(self.firing_rate)

    @property
    def dead(self) -> Bool[np.ndarray, " d_sae"]:
        """Which features never fire on this sample."""
        return self.firing_rate == 0

    @property
    def flagged(self) -> Bool[np.ndarray, " d_sae"]:
        """Which features look like datapoint features."""
        return self.datapoint.score >= FLAGGED


@torch.no_grad()
def feature_records(
    transcoder: nn.Module,
    sample: RowSample,
    *,
    layer: Layer | None = None,
    circuits: Sequence[Circuit] = (),
    top: int = 5,
    on_rows: Callable[[int], None] = lambda _: None,
    reading: SampleReading | None = None,
) -> FeatureRecords:
    """Compute a record of every feature, in one pass over the sample.

    Activations are those that `hook_sae_acts_post` carries, and outputs what they give: hooks on it show.

    Args:
        transcoder: any SAELens transcoder with dense activations, or a module whose linear region is registered;
            in `eval` mode.
        sample: rows of the layer that it replaces.
        layer: the layer, by which each feature's faithfulness is measured; None leaves that out.
        circuits: the layer's own, where they are known (`layer.circuits()`).
        top: rows to remember of each feature.
        on_rows: receives the number of rows after each part.
        reading: of this transcoder on this sample, where it was read already; None reads it.

    Returns:
        Arrays with one entry a feature.

    Raises:
        ValueError: the transcoder is of another layer (its width is named); its linear regions are not known.
    """
    inspected = hooked(transcoder, sample.x[:1])
    require_fit(inspected, sample)
    found = read_sample(inspected, sample, on_rows) if reading is None else reading
    W_dec, n_rows, acts = inspected.W_dec.detach().contiguous(), len(sample), found.activations
    sums, tops = DatapointSums(sample.groups, len(W_dec)), TopRows(sample.groups, len(W_dec), top)
    draw, alone = FiringDraw(n_rows, len(W_dec)), AloneRows(inspected, sample.groups)
    for part in acts.parts(sample.memory):
        some, beyond = acts.part(part).astype(np.float64), sample.y[part] - sample.mean
        sums.add(some, _along(some, beyond, W_dec), beyond.double().square().sum(-1).cpu().numpy(), part)
        for rows in (tops, draw, alone):
            rows.add(some, part.start)
    reads = inspected.W_enc.detach().norm(dim=0).double().cpu().numpy()
    # sum over rows of a_i ||W_dec^i||, [d_sae]
    written = sums.total * W_dec.norm(dim=1).double().cpu().numpy()
    mean_activation = _divided(sums.total, sums.n_active)
    nearest, cosine = _nearest_circuits(inspected, sample, circuits)
    return FeatureRecords(
        n_rows=n_rows,
        firing_rate=sums.n_active / n_rows,
        mean_activation=mean_activation,
        max_activation=tops.values[:, 0],
        written=_divided(written, written.sum()),
        carried=_divided(sums.along, sample.variance * n_rows),
        jacobian_share=_divided(found.jacobian_parts.numpy(), found.jacobian_norm),
        masking=_divided(np.where(sums.n_active > 0, reads, 0.0), mean_activation),
        datapoint=sums.scores(),
        top_rows=tops.rows,
        top_activations=tops.values,
        drawn=(drawn := draw.drawn()),
        near=alone.near,
        alone_rows=alone.rows,
        alone_activations=alone.activations,
        faithfulness=None if layer is None else feature_faithfulness(inspected, layer, sample, drawn),
        circuits=tuple(circuit.label for circuit in circuits),
        nearest_circuit=nearest,
        circuit_cosine=cosine,
        fvu=found.squared_error / (sample.variance * n_rows) if sample.variance else nan,
        l0=float(sums.n_active.sum() / n_rows),
    )


def _along(acts: Any, beyond: Float[Tensor, "rows d_out"], W_dec: Float[Tensor, "d_sae d_out"]) -> Any:
    """Return a_i(n) <W_dec^i, f(x_n) - E f> where activations a, a sparse matrix, are not 0."""
    features, offsets = (torch.from_numpy(each).to(W_dec.device, torch.int64) for each in (acts.indices, acts.indptr))
    products = dot_active(beyond.to(W_dec).contiguous(), ActiveFeatures(features, offsets, len(W_dec)), W_dec)
    return csr_array((acts.data * products.double().cpu().numpy(), acts.indices, acts.indptr), shape=acts.shape)


def _nearest_circuits(
    transcoder: "SAE[Any]", sample: RowSample, circuits: Sequence[Circuit]
) -> tuple[Any | None, Any | None]:
    rows = sample.x[sample.spread(CIRCUIT_ROWS)]
    live = live_circuits(circuits, rows)
    if not live:
        return None, None
    norms, cosines, _ = norms_and_cosines(transcoder, rows.to(transcoder.W_enc), [circuits[k] for k in live])
    # cosines [live circuits, d_sae]
    nearest = np.asarray(live)[cosines.argmax(0)]
    return np.where(norms > 0, nearest, -1), np.where(norms > 0, cosines.max(0), 0.0)


def _divided(a: Any, b: Any) -> Any:
    """Return a / b, and 0 where b is 0."""
    return np.divide(a, b, out=np.zeros(len(a)), where=np.broadcast_to(b, a.shape) > 0)
