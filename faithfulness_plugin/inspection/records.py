"""What each feature of a transcoder reads, writes and does to the Jacobian: a record a feature, read through hooks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from faithfulness_plugin.inspection.datapoint_score import FLAGGED, DatapointScores, DatapointSums
from faithfulness_plugin.inspection.sample import RowSample
from faithfulness_plugin.inspection.top_rows import TopRows
from faithfulness_plugin.jacobian.active import ActiveFeatures, dot_active
from faithfulness_plugin.jacobian.gram import jacobian_by_feature
from faithfulness_plugin.jacobian.linear_region import linear_region
from faithfulness_plugin.layers.spliced import ACTS_POST
from faithfulness_plugin.metrics.circuit_projection import Circuit, norms_and_cosines

JACOBIAN_ROWS = 16_384
CIRCUIT_ROWS = 20_000


@dataclass(frozen=True)
class FeatureRecords:
    """Of every feature, arrays [d_sae] unless said otherwise, on one sample."""

    n_rows: int
    firing_rate: Float[np.ndarray, " d_sae"]
    """The share of rows with a_i > 0."""
    mean_activation: Float[np.ndarray, " d_sae"]
    """Of a_i where it is active; 0 for a feature that never is."""
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
    circuits: tuple[str, ...] = ()
    """The layer's ideal circuits, where they are known."""
    nearest_circuit: Int[np.ndarray, " d_sae"] | None = None
    """Of these, the one whose contributions are most like the feature's; -1 for a feature that never fires."""
    circuit_cosine: Float[np.ndarray, " d_sae"] | None = None
    fvu: float = nan
    """Of the transcoder on this sample; NaN where the layer's output is the same on all rows."""
    l0: float = 0.0

    @property
    def d_sae(self) -> int:
        return len(self.firing_rate)

    @property
    def dead(self) -> Any:
        """Which features never fire on this sample."""
        return self.firing_rate == 0

    @property
    def flagged(self) -> Any:
        """Which look like datapoint features."""
        return self.datapoint.score >= FLAGGED


@torch.no_grad()
def feature_records(
    transcoder: Any,
    sample: RowSample,
    *,
    circuits: Sequence[Circuit] = (),
    top: int = 5,
    jacobian_rows: int = JACOBIAN_ROWS,
    on_rows: Callable[[int], None] = lambda _: None,
) -> FeatureRecords:
    """A record of every feature, in one pass over the sample.

    Activations are those that `hook_sae_acts_post` carries, outputs what the transcoder returns: hooks on it show.

    Args:
        transcoder: any SAELens transcoder with dense activations, in `eval` mode.
        circuits: the layer's own, where they are known (`layer.circuits()`).
        top: rows to remember of each feature.
        jacobian_rows: at most so many rows, evenly spread, for the shares of the Jacobian.
        on_rows: called with the number of rows that were looked at.

    Raises:
        ValueError: the transcoder is of another layer (its width is named); its features are not known to be linear
            regions (see `linear_region`).
    """
    require_fit(transcoder, sample)
    W_dec = transcoder.W_dec.detach()
    d_sae = len(W_dec)
    d_norms, e_norms = W_dec.norm(dim=1).double().cpu().numpy(), transcoder.W_enc.norm(dim=0).double().cpu().numpy()
    sums, tops = DatapointSums(sample.groups, d_sae), TopRows(sample.groups, d_sae, top)
    carried, parts = np.zeros(d_sae), torch.zeros(d_sae, dtype=torch.float64)
    error, whole = 0.0, 0.0
    at = torch.zeros(len(sample), dtype=torch.bool)
    at[sample.spread(jacobian_rows)] = True
    for part, x in rows_of(sample, transcoder):
        acts, t = seen_at(transcoder, x)
        beyond = sample.y[part].to(t.device) - sample.mean.to(t.device)
        error += (t.double() - sample.y[part].to(t.device).double()).square().sum().item()
        positions = acts.flatten().nonzero().flatten()
        active = ActiveFeatures.of_flat(positions, len(acts), d_sae)
        values, along = acts.flatten()[positions], dot_active(beyond.to(W_dec).contiguous(), active, W_dec.contiguous())
        if at[part].any():
            region = linear_region(transcoder, x[at[part]], gate=acts[at[part]])
            if region is None:
                raise ValueError(
                    f"the features of {type(transcoder).__name__} are not known: register its linear region"
                )
            of_features, of_all = jacobian_by_feature(region)
            parts += of_features.double().cpu()
            whole += of_all.item()
        here = ActiveFeatures(active.features.cpu(), active.offsets.cpu(), d_sae)
        values, along = values.float().cpu(), (values * along).double().cpu()
        carried += np.bincount(here.features.numpy(), along.numpy(), d_sae)
        sums.add(here, values, along, beyond.double().square().sum(-1).cpu(), part.start)
        tops.add(here, values, part.start)
        on_rows(len(acts))
    nearest, cosine = _nearest_circuits(transcoder, sample, circuits)
    written = sums.total * d_norms
    mean_activation = _divided(sums.total, sums.n_active)
    return FeatureRecords(
        n_rows=len(sample),
        firing_rate=sums.n_active / len(sample),
        mean_activation=mean_activation,
        max_activation=tops.values[:, 0].double().numpy(),
        written=_divided(written, np.full(d_sae, written.sum())),
        carried=_divided(carried, np.full(d_sae, sample.variance * len(sample))),
        jacobian_share=_divided(parts.numpy(), np.full(d_sae, whole)),
        masking=_divided(np.where(sums.n_active > 0, e_norms, 0.0), mean_activation),
        datapoint=sums.scores(),
        top_rows=tops.rows.numpy(),
        top_activations=tops.values.double().numpy(),
        circuits=tuple(circuit.label for circuit in circuits),
        nearest_circuit=nearest,
        circuit_cosine=cosine,
        fvu=error / (sample.variance * len(sample)) if sample.variance else nan,
        l0=float(sums.n_active.sum() / len(sample)),
    )


def rows_of(sample: RowSample, transcoder: Any) -> Iterator[tuple[slice, Tensor]]:
    """(part, x) of a sample, part by part, as the transcoder takes them."""
    for part in sample.chunks(transcoder.W_dec.shape[0]):
        yield part, sample.x[part].to(device=transcoder.W_dec.device, dtype=transcoder.W_dec.dtype)


def seen_at(transcoder: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """(activations, outputs) at rows x, as the transcoder's hooks carry them."""
    t, cache = transcoder.run_with_cache(x, names_filter=ACTS_POST)
    return _dense(cache[ACTS_POST]), t


def activations_at(transcoder: Any, x: Tensor) -> Tensor:
    """The same activations alone: nothing is decoded."""
    seen: list[Tensor] = []

    def look(acts: Tensor, hook: HookPoint) -> None:
        del hook
        seen.append(acts)

    with transcoder.hooks(fwd_hooks=[(ACTS_POST, look)]):
        transcoder.encode(x)
    return _dense(seen[0])


def _dense(acts: Tensor) -> Tensor:
    return acts.to_dense() if acts.is_sparse else acts


def require_fit(transcoder: Any, sample: RowSample) -> None:
    """Raises ValueError for a transcoder of another width than the layer."""
    theirs = (transcoder.W_enc.shape[0], transcoder.W_dec.shape[1])
    if theirs != (sample.x.shape[1], sample.y.shape[1]):
        raise ValueError(
            f"the transcoder maps {theirs[0]} to {theirs[1]} and the layer {sample.x.shape[1]} to {sample.y.shape[1]}: "
            "is it a transcoder of this layer and this model? Name another --layer or --model"
        )


def _nearest_circuits(transcoder: Any, sample: RowSample, circuits: Sequence[Circuit]) -> tuple[Any | None, Any | None]:
    rows = sample.x[sample.spread(CIRCUIT_ROWS)]
    live = [k for k, circuit in enumerate(circuits) if circuit.activation(rows).any()]
    if not live:
        return None, None
    norms, cosines, _ = norms_and_cosines(transcoder, rows.to(transcoder.W_enc), [circuits[k] for k in live])
    nearest = np.asarray(live)[cosines.argmax(0)]
    return np.where(norms > 0, nearest, -1), np.where(norms > 0, cosines.max(0), 0.0)


def _divided(a: Any, b: Any) -> Any:
    """a / b, and 0 where b is 0."""
    return np.divide(a, b, out=np.zeros(len(a)), where=np.asarray(b) > 0)
