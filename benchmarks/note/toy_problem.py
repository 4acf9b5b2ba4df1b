"""A toy layer with its point, its circuits and its evaluation rows; and the metrics of a transcoder there."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from faithfulness_plugin import metrics
from faithfulness_plugin.benchmarks.note.superposition_layer import superposition_network
from faithfulness_plugin.benchmarks.note.toy_records import VALIDATION_SEED, LayerName, Projection, RunMetrics
from faithfulness_plugin.metrics.circuit_projection import Circuit
from faithfulness_plugin.metrics.feature_recovery import LIVE_SHARE
from faithfulness_plugin.toy.abs_network import AbsNetwork
from faithfulness_plugin.toy.circuits import abs_circuits, datapoint_circuit
from faithfulness_plugin.toy.control_layers import memorizing_network, shuffled_network
from faithfulness_plugin.toy.inputs import AbsInputs
from faithfulness_plugin.toy.relu_network import ReluNetwork
from faithfulness_plugin.transcoders.base import TrainingTranscoder


@dataclass(frozen=True)
class ToyProblem:
    """One layer and the rows that transcoders of it are measured on, which have a seed of their own.

    At the kinks of |x| there is no derivative: Jacobians of "abs", "memorizing" and "shuffled" are compared over the
    columns with x != 0.
    """

    d_in: int
    density: float
    repeat_frac: float
    n_ones: int
    n_validation: int
    n_jacobian: int
    layer_name: LayerName = "abs"
    n_neurons: int = 0

    @cached_property
    def layer(self) -> ReluNetwork:
        if self.layer_name == "memorizing":
            return memorizing_network(self.point)
        if self.layer_name == "shuffled":
            return shuffled_network(self.d_in)
        if self.layer_name == "superposition":
            return superposition_network(self.d_in, self.n_neurons, self.density)
        return AbsNetwork(self.d_in)

    @cached_property
    def point(self) -> Tensor:
        return self._inputs(0.0).point

    @cached_property
    def clean(self) -> Tensor:
        """Rows [n_validation, d_in] without p."""
        return next(self._inputs(0.0))

    @cached_property
    def repeated(self) -> Tensor:
        """The clean rows, some of them replaced by p."""
        return next(self._inputs(self.repeat_frac))

    @cached_property
    def circuits(self) -> list[Circuit]:
        """The layer's own circuits that occur in these rows; those of |x| are called by their formulas."""
        own = abs_circuits(self.d_in) if self.layer_name == "abs" else self.layer.circuits()
        return [circuit for circuit in own if circuit.activation(self.repeated).any()]

    def _inputs(self, repeat_frac: float) -> AbsInputs:
        return AbsInputs(self.d_in, self.density, repeat_frac, self.n_ones, self.n_validation, VALIDATION_SEED)

    def measure(self, transcoder: TrainingTranscoder[Any]) -> RunMetrics:
        """Compute all metrics that every experiment reports.

        Args:
            transcoder: of the problem's layer.

        Returns:
            The metrics, on clean rows; circuits are looked for on rows that hold p.

        Raises:
            ValueError: a metric is undefined for this transcoder.
        """
        rows = self.clean[: self.n_jacobian]
        columns = None if self.layer_name == "superposition" else rows != 0
        memorization = metrics.memorization(transcoder, self.point, layer=self.layer)
        jacobian = metrics.jacobian_error(transcoder, self.layer, rows, columns=columns)
        off_diagonal = metrics.off_diagonal_energy(transcoder, self.point)
        recovery = metrics.feature_recovery(transcoder, self.repeated, self.circuits)
        return RunMetrics(
            m=memorization.m,
            m_fraction=memorization.fraction,
            **metrics.reconstruction(transcoder, self.layer, self.clean).to_dict(),
            jacobian_error=jacobian.relative_error,
            jacobian_cosine=jacobian.cosine,
            jacobian_error_data=jacobian.relative_error_data,
            off_diagonal_energy=off_diagonal.energy,
            off_diagonal_norm=off_diagonal.norm,
            recovered=recovery.recovered,
            precision=recovery.precision,
            circuit_cosine=recovery.mean_cosine,
        )

    def project(self, transcoder: TrainingTranscoder[Any]) -> Projection:
        """Decompose the live features into the layer's circuits and p's.

        Args:
            transcoder: of the problem's layer.

        Returns:
            The weights [circuit][feature], p's circuit being the last, and what is left of each feature.
        """
        circuits = [*self.circuits, datapoint_circuit(self.point)]
        projection = metrics.circuit_projection(transcoder, self.repeated, circuits)
        live = np.flatnonzero(projection.norms > LIVE_SHARE * projection.norms.max(initial=0.0))
        return Projection(
            features=live.tolist(),
            weights=projection.weights[:, live].round(4).tolist(),
            residual=projection.residual[live].round(4).tolist(),
        )


def rounded(matrix: Tensor) -> list[Any]:
    """Convert a matrix to lists, rounded to 4 decimals.

    Args:
        matrix: of any shape; a graph is left behind.

    Returns:
        Lists nested as deep as the matrix has dimensions.
    """
    return matrix.detach().double().numpy().round(4).tolist()
