"""Measures of faithfulness: one per file, each a function that returns a small frozen dataclass.

Definitions and choices are in the docstrings; every result has `.to_dict()`.
"""

from faithfulness_plugin.metrics.circuit_projection import Circuit, CircuitProjection, circuit_projection
from faithfulness_plugin.metrics.deletion import Deletion, deletion
from faithfulness_plugin.metrics.downstream import Effect, effect
from faithfulness_plugin.metrics.feature_recovery import FeatureRecovery, feature_recovery
from faithfulness_plugin.metrics.gradient_masking import GradientMasking, gradient_masking
from faithfulness_plugin.metrics.hops_kept import HopsKept, hops_kept
from faithfulness_plugin.metrics.jacobian_error import JacobianError, jacobian_error
from faithfulness_plugin.metrics.jacobian_floor import JacobianFloor, jacobian_floor
from faithfulness_plugin.metrics.jacobian_spectrum import JacobianSpectrum, jacobian_spectrum
from faithfulness_plugin.metrics.memorization import Memorization, memorization, memorization_by_feature
from faithfulness_plugin.metrics.near_point import NearPoint, near_point
from faithfulness_plugin.metrics.off_diagonal import OffDiagonalEnergy, off_diagonal_energy
from faithfulness_plugin.metrics.passage_memorization import PassageMemorization, passage_memorization
from faithfulness_plugin.metrics.reconstruction import Reconstruction, reconstruction
from faithfulness_plugin.metrics.response import Response, response
from faithfulness_plugin.metrics.result import MetricResult
from faithfulness_plugin.metrics.variance_concentration import VarianceConcentration, variance_concentration

__all__ = [
    "Circuit",
    "CircuitProjection",
    "Deletion",
    "Effect",
    "FeatureRecovery",
    "GradientMasking",
    "HopsKept",
    "JacobianError",
    "JacobianFloor",
    "JacobianSpectrum",
    "Memorization",
    "MetricResult",
    "NearPoint",
    "OffDiagonalEnergy",
    "PassageMemorization",
    "Reconstruction",
    "Response",
    "VarianceConcentration",
    "circuit_projection",
    "deletion",
    "effect",
    "feature_recovery",
    "gradient_masking",
    "hops_kept",
    "jacobian_error",
    "jacobian_floor",
    "jacobian_spectrum",
    "memorization",
    "memorization_by_feature",
    "near_point",
    "off_diagonal_energy",
    "passage_memorization",
    "reconstruction",
    "response",
    "variance_concentration",
]
