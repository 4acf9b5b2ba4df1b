"""Attribution graphs of a model in which transcoders stand for layers, and whether they tell the truth."""

from faithfulness_plugin.attribution.attribute import attribute
from faithfulness_plugin.attribution.graph import AttributionGraph
from faithfulness_plugin.attribution.replaced_layers import ReplacedLayers, replaced_layers
from faithfulness_plugin.attribution.scores import GraphScores, Pruned, graph_scores, prune

__all__ = [
    "AttributionGraph",
    "GraphScores",
    "Pruned",
    "ReplacedLayers",
    "attribute",
    "graph_scores",
    "prune",
    "replaced_layers",
]
