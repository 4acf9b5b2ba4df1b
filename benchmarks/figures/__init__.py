"""Figures, one per file: each is a function that returns a matplotlib Figure.

Those that begin with `draw` take (transcoder, layer, x); the others draw arrays, and make the figures of result files.
"""

from faithfulness_plugin.benchmarks.figures.circuit_projection import circuit_projection_figure
from faithfulness_plugin.benchmarks.figures.emergence_map import emergence_map
from faithfulness_plugin.benchmarks.figures.error_against_fvu import draw_error_against_fvu, error_against_fvu
from faithfulness_plugin.benchmarks.figures.feature_weights import draw_feature_weights, feature_weights
from faithfulness_plugin.benchmarks.figures.intervals import intervals_figure
from faithfulness_plugin.benchmarks.figures.jacobian_at_point import draw_jacobians, jacobian_at_point
from faithfulness_plugin.benchmarks.figures.memorization_by_arm import memorization_by_arm
from faithfulness_plugin.benchmarks.figures.passage_features import passage_features
from faithfulness_plugin.benchmarks.figures.published import published_beside_ours

__all__ = [
    "circuit_projection_figure",
    "draw_error_against_fvu",
    "draw_feature_weights",
    "draw_jacobians",
    "emergence_map",
    "error_against_fvu",
    "feature_weights",
    "intervals_figure",
    "jacobian_at_point",
    "memorization_by_arm",
    "passage_features",
    "published_beside_ours",
]


def __dir__() -> list[str]:
    return __all__
