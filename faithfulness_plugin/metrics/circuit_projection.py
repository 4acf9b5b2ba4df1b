"""What each feature is made of: a joint non-negative sparse decomposition over the layer's own circuits.

A circuit is u(x) d: an activation u of the input, and a direction d that it writes. A feature is the same,
a_i(x) W_dec^i. Over N rows both are matrices [N, d_out] of rank one, so that every inner product factorises:
<u d, a w> = (u . a)(d . w), and nothing of size N x d_out is built.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import LinAlgError, cholesky, solve_triangular
from scipy.optimize import nnls
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.metrics.result import MetricResult, Transcoder

ALPHA = 0.01


@dataclass(frozen=True)
class Circuit:
    """One ideal mechanism: x -> activation(x) * direction."""

    label: str
    activation: Callable[[Tensor], Tensor]
    """[batch, d_in] -> [batch]."""
    direction: Float[Tensor, " d_out"]

    __repr__ = short_repr


@dataclass(frozen=True)
class CircuitProjection(MetricResult):
    """Every feature as a mixture of circuits and a rest."""

    labels: tuple[str, ...]
    """The circuits, in the order of the rows of `weights`."""
    weights: Float[np.ndarray, "n_circuits d_sae"]
    """w >= 0 per feature, features and circuits scaled to unit norm; a dead feature's column is 0."""
    residual: Float[np.ndarray, " d_sae"]
    """||C_i - sum_k w_k L_k|| / ||C_i||: what no circuit explains; 0 for a dead feature."""
    norms: Float[np.ndarray, " d_sae"]
    """||C_i|| / sqrt(N): the rms of each feature's contribution; 0 says dead."""


@torch.no_grad()
def circuit_projection(
    transcoder: Transcoder, x: Float[Tensor, "batch d_in"], circuits: Sequence[Circuit]
) -> CircuitProjection:
    """Decompose every feature into the layer's own circuits, jointly and sparsely.

    For each feature i, minimise over w >= 0: 1/2 ||C_i - sum_k w_k L_k||_F^2 + alpha ||w||_1, with C_i = a_i(x) W_dec^i
    over the rows x, scaled to unit norm; L_k the circuits likewise; and alpha 1 % of that feature's largest correlation
    with a circuit. Solved exactly, with scipy's non-negative least squares. The weights are joint: what one circuit
    explains is not counted again for another that overlaps with it.

    Args:
        transcoder: with `encode` and `W_dec`.
        x: rows drawn as in training, so that the repeated point occurs.
        circuits: linearly independent on these rows.

    Returns:
        Weights [n_circuits, d_sae] and each feature's residual, between 0 (explained) and 1 (no circuit in it).

    Raises:
        ValueError: no circuits, a circuit that is never active on these rows, or linearly dependent circuits.

    The layer's own neurons need one circuit each; alpha shrinks that weight from 1 to 0.99:

        >>> import torch
        >>> from faithfulness_plugin.toy.abs_network import AbsNetwork
        >>> from faithfulness_plugin.toy.circuits import abs_circuits
        >>> from faithfulness_plugin.toy.exact_transcoder import exact_transcoder
        >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        >>> found = circuit_projection(exact_transcoder(AbsNetwork(3)), x, abs_circuits(3))
        >>> [round(float(w), 2) for w in found.weights.max(axis=0)]
        [0.99, 0.99, 0.99, 0.99, 0.99, 0.99]
    """
    # norms [d_sae], cosines [n_circuits, d_sae], gram [n_circuits, n_circuits]
    norms, cosines, gram = norms_and_cosines(transcoder, x, circuits)
    live = norms > 0
    correlation = cosines[:, live]
    try:
        R = cholesky(gram)
    except LinAlgError as error:
        raise ValueError("the circuits are linearly dependent on these rows: drop the duplicates") from error
    weights, residual = np.zeros((len(circuits), len(norms))), np.zeros(len(norms))
    alpha = ALPHA * np.abs(correlation).max(axis=0, initial=0.0)
    # 1/2 w'R'R w - (b - alpha)'w is, up to a constant, 1/2 ||R w - R'^-1 (b - alpha)||^2
    # R [n_circuits, n_circuits] upper triangular, R'R = gram; targets [n_circuits, n_live]
    targets = solve_triangular(R, correlation - alpha, trans=1)
    for i, target, b in zip(np.flatnonzero(live), targets.T, correlation.T, strict=True):
        w = weights[:, i] = nnls(R, target)[0]
        # ||C - L w||^2 = ||C||^2 - 2 b'w + w'R'R w, and ||C|| = 1
        residual[i] = np.sqrt(max(0.0, 1 - 2 * b @ w + np.sum((R @ w) ** 2)))
    labels = tuple(circuit.label for circuit in circuits)
    return CircuitProjection(labels, weights, residual, norms / np.sqrt(len(x)))


def norms_and_cosines(
    transcoder: Transcoder, x: Tensor, circuits: Sequence[Circuit]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compare every feature's contribution with every circuit's, in float64.

    Contributions are matrices of rank one, so that <C_i, L_k> = (a_i . u_k)(W_dec^i . d_k).

    Args:
        transcoder: with `encode` and `W_dec`.
        x: rows on which every circuit is active somewhere.
        circuits: at least one.

    Returns:
        The norms ||C_i|| [d_sae]; cosines of circuits with features [n_circuits, d_sae], 0 for a dead feature; cosines
        of
        circuits with each other [n_circuits, n_circuits].

    Raises:
        ValueError: no circuits, or a circuit that is never active on these rows.
    """
    if not circuits:
        raise ValueError("there are no circuits to compare with: pass at least one")
    # acts [N, d_sae], directions [d_sae, d_out]; u [N, n_circuits], d [n_circuits, d_out]
    acts = transcoder.encode(x).double().cpu().numpy()
    directions = transcoder.W_dec.detach().double().cpu().numpy()
    u = torch.stack([circuit.activation(x).double().cpu() for circuit in circuits], dim=1).numpy()
    d = torch.stack([circuit.direction.double().cpu() for circuit in circuits]).numpy()
    sizes = np.linalg.norm(u, axis=0) * np.linalg.norm(d, axis=1)
    if not sizes.all():
        silent = ", ".join(c.label for c, size in zip(circuits, sizes, strict=True) if size == 0)
        raise ValueError(f"never active on these rows: {silent}. Pass rows on which every circuit occurs")
    u, d = u / np.linalg.norm(u, axis=0), d / np.linalg.norm(d, axis=1, keepdims=True)
    norms = np.linalg.norm(acts, axis=0) * np.linalg.norm(directions, axis=1)
    # every contribution is an outer product of rank one: both overlaps [n_circuits, d_sae] multiply
    overlaps = (u.T @ acts) * (d @ directions.T)
    cosines = np.divide(overlaps, norms, out=np.zeros_like(overlaps), where=norms > 0)
    return norms, cosines, (u.T @ u) * (d @ d.T)


def live_circuits(circuits: Sequence[Circuit], x: Float[Tensor, "batch d_in"]) -> list[int]:
    """Find the circuits that are active on some row.

    Args:
        circuits: any number of them.
        x: the rows to look at.

    Returns:
        Their indices in `circuits`.
    """
    return [k for k, circuit in enumerate(circuits) if circuit.activation(x).any()]
