"""Measures of faithfulness: one per file, each a function that returns a small frozen dataclass.

Definitions and choices are in the docstrings; every result has `.to_dict()`.
"""

from faithfulness_plugin.metrics.circuit_projection import Circuit, CircuitProjection, circuit_projection
from faithfulness_plugin.metrics.feature_recovery import FeatureRecovery, feature_recovery
from faithfulness_plugin.metrics.jacobian_error import JacobianError, jacobian_error
from faithfulness_plugin.metrics.memorization import Memorization, memorization
from faithfulness_plugin.metrics.off_diagonal import OffDiagonalEnergy, off_diagonal_energy
from faithfulness_plugin.metrics.reconstruction import Reconstruction, reconstruction
from faithfulness_plugin.metrics.result import MetricResult

__all__ = [
    "Circuit",
    "CircuitProjection",
    "FeatureRecovery",
    "JacobianError",
    "Memorization",
    "MetricResult",
    "OffDiagonalEnergy",
    "Reconstruction",
    "circuit_projection",
    "feature_recovery",
    "jacobian_error",
    "memorization",
    "off_diagonal_energy",
    "reconstruction",
]
