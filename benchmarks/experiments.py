"""The repository's own experiments by name: where each is, and what it measures, for `faithfulness experiment`."""

EXPERIMENTS: dict[str, tuple[str, str]] = {
    "real-layers": (
        "faithfulness_plugin.benchmarks.real_layers.experiment:RealLayers",
        "Jacobian matching on the MLPs of a language model",
    ),
}
"""name: ("module:class", a few words)"""
