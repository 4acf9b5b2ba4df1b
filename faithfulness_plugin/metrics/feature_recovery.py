"""Which of the layer's own circuits have a feature of their own."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from faithfulness_plugin.metrics.circuit_projection import Circuit, norms_and_cosines
from faithfulness_plugin.metrics.result import MetricResult, Transcoder

RECOVERED_COSINE = 0.9
LIVE_SHARE = 0.01


@dataclass(frozen=True)
class FeatureRecovery(MetricResult):
    """The layer's circuits found among a transcoder's features."""

    mean_cosine: float
    """Mean over circuits of the cosine with the feature matched to it (0 where none is left, or where negative)."""
    recovered: int
    """Circuits whose feature has a cosine of at least 0.9."""
    n_circuits: int
    n_live: int
    """Features whose contribution's norm is above 1 % of the largest one's."""
    precision: float
    """recovered / n_live: below 1, some features are not the layer's (or are split)."""
    recall: float
    """recovered / n_circuits."""


@torch.no_grad()
def feature_recovery(
    transcoder: Transcoder, x: Float[Tensor, "batch d_in"], circuits: Sequence[Circuit]
) -> FeatureRecovery:
    """Match one feature to one circuit, by the assignment that maximises the sum of cosines (Hungarian method).

    The cosine is between contributions over the rows x, a_i(x) W_dec^i and u_k(x) d_k: what a feature reads and what it
    writes count alike.

    Args:
        transcoder: with `encode` and `W_dec`.
        x: rows on which every circuit is active somewhere.
        circuits: the layer's own.

    Returns:
        The mean matched cosine, with precision and recall at a cosine of 0.9.

    Raises:
        ValueError: no circuits, or a circuit that is never active on these rows.

    The transcoder that is the layer itself recovers all circuits and has no other features:

        >>> import torch
        >>> from faithfulness_plugin.toy.abs_network import AbsNetwork
        >>> from faithfulness_plugin.toy.circuits import abs_circuits
        >>> from faithfulness_plugin.toy.exact_transcoder import exact_transcoder
        >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        >>> found = feature_recovery(exact_transcoder(AbsNetwork(3)), x, abs_circuits(3))
        >>> found.recovered, found.precision, found.recall
        (6, 1.0, 1.0)
    """
    norms, cosines, _ = norms_and_cosines(transcoder, x, circuits)
    live = norms > LIVE_SHARE * norms.max(initial=0.0)
    cosines = np.maximum(0.0, cosines[:, live])
    matched = cosines[linear_sum_assignment(cosines, maximize=True)]
    recovered, n_live = int((matched >= RECOVERED_COSINE).sum()), int(live.sum())
    return FeatureRecovery(
        mean_cosine=float(matched.sum() / len(circuits)),
        recovered=recovered,
        n_circuits=len(circuits),
        n_live=n_live,
        precision=recovered / n_live if n_live else 0.0,
        recall=recovered / len(circuits),
    )
