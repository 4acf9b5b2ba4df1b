"""A transcoder in few numbers and pictures: what a page begins with."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.inspection.hooked_reading import acts_at
from faithfulness_plugin.inspection.records import FeatureRecords
from faithfulness_plugin.inspection.sample import RowSample
from faithfulness_plugin.jacobian.exact import layer_jacobian
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.metrics.circuit_projection import Circuit, CircuitProjection, circuit_projection, live_circuits
from faithfulness_plugin.metrics.jacobian_error import JacobianError, jacobian_error
from faithfulness_plugin.metrics.jacobian_spectrum import JacobianSpectrum, jacobian_spectrum

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE

JACOBIAN_ROWS = 256
SPECTRUM_ROWS = 16
SMALL = 64
"""Layers up to this width are shown by whole Jacobians and weights, wider ones by spectra and largest weights."""
EXAMPLES = 48
PROJECTED_ROWS = 8192


@dataclass(frozen=True)
class Examples:
    """Rows of a small layer at which whole Jacobians are shown."""

    rows: Int[np.ndarray, " examples"]
    x: Float[np.ndarray, "examples d_in"]
    layer: Float[np.ndarray, "examples d_out d_in"]
    """J_f."""
    activations: Float[np.ndarray, "examples d_sae"]
    """The transcoder's: its gates are where they are above 0."""

    __repr__ = short_repr


@dataclass(frozen=True)
class Overview:
    """What a page shows first of one transcoder on a sample."""

    jacobian: JacobianError
    spectrum: JacobianSpectrum | None
    """None for small layers."""
    examples: Examples | None
    """None for wide layers."""
    projection: CircuitProjection | None
    """None where the layer's circuits are not known."""

    __repr__ = short_repr


@torch.no_grad()
def overview(
    transcoder: "SAE[Any]",
    layer: Layer,
    sample: RowSample,
    records: FeatureRecords,
    *,
    circuits: Sequence[Circuit] = (),
    kinks: bool = False,
) -> Overview:
    """Compare exact Jacobians at some rows of the sample, and project the features on the circuits.

    Args:
        transcoder: in `eval` mode.
        layer: the function that it replaces.
        sample: rows of the layer.
        records: gives the rows that are worth showing.
        circuits: the layer's own, where they are known.
        kinks: leave out columns of coordinates that are 0, along which the layer (as |x|) has no derivative.

    Returns:
        Errors, and spectra for wide layers or whole Jacobians for small ones.

    Raises:
        ValueError: as `jacobian_error`.
    """
    x = sample.x[sample.spread(JACOBIAN_ROWS)].to(transcoder.W_enc.device)
    columns: Bool[Tensor, "rows d_in"] | None = x != 0 if kinks else None
    among = sample.x[sample.spread(PROJECTED_ROWS)].to(x)
    small = max(len(transcoder.W_enc), transcoder.W_dec.shape[1]) <= SMALL
    projection = None
    if live := [circuits[k] for k in live_circuits(circuits, among)]:
        with suppress(ValueError):  # circuits that these rows do not tell apart
            projection = circuit_projection(transcoder, among.to(transcoder.W_enc), live)
    return Overview(
        jacobian=jacobian_error(transcoder, layer, x, columns=columns, among=among),
        spectrum=None if small else jacobian_spectrum(transcoder, layer, x[:: len(x) // SPECTRUM_ROWS or 1], (1,)),
        examples=_examples(transcoder, layer, sample, records) if small else None,
        projection=projection,
    )


def _examples(transcoder: "SAE[Any]", layer: Layer, sample: RowSample, records: FeatureRecords) -> Examples:
    """Choose the repeated inputs with most of the output, and those at which single features are most active."""
    copies, n_rows = sample.copies, len(sample)
    # the first row of each group of near-duplicates, [groups]
    first = torch.full((len(copies),), n_rows).scatter_reduce(0, sample.groups, torch.arange(n_rows), "amin")
    # ||f - E f||^2 there; copies * output ranks what repeated inputs make of all output
    output = (sample.y[first].double().cpu() - sample.mean.double().cpu()).square().sum(-1)
    repeated = (copies * output).argsort(descending=True, stable=True)[:8]
    of_features = records.top_rows[np.argsort(-records.written, kind="stable"), 0]
    wanted = [*first[repeated[copies[repeated] > 1]].tolist(), *of_features[of_features >= 0].tolist()]
    rows = np.array(list(dict.fromkeys(wanted))[:EXAMPLES] or [0])
    x = sample.x[torch.from_numpy(rows)].to(transcoder.W_enc.device)
    acts = acts_at(transcoder, x.to(transcoder.W_enc))
    return Examples(rows, *(each.float().cpu().numpy() for each in (x, layer_jacobian(layer, x), acts)))
