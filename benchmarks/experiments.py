"""The repository's own experiments by name: where each is, and what it measures, for `faithfulness experiment`."""

EXPERIMENTS: dict[str, tuple[str, str]] = {
    "real-layers": (
        "faithfulness_plugin.benchmarks.real_layers.experiment:RealLayers",
        "Jacobian matching on the MLPs of a language model",
    ),
    "speed": ("faithfulness_plugin.benchmarks.timing.speed:Speed", "a matched step beside other ways to make it"),
    "ensemble": ("faithfulness_plugin.benchmarks.timing.ensemble:Ensemble", "the toy ensemble beside a loop"),
    "store": ("faithfulness_plugin.benchmarks.timing.store:StoreSpeed", "training from a store beside from the model"),
    "adapter": (
        "faithfulness_plugin.benchmarks.timing.adapter:AdapterOverhead",
        "the term in other libraries' trainers",
    ),
    "inspection-toy": (
        "faithfulness_plugin.benchmarks.inspection.toy:ToyScores",
        "does the datapoint score find the features that serve a repeated point?",
    ),
    "inspection-passage": (
        "faithfulness_plugin.benchmarks.inspection.passage:PassageScores",
        "the same for a repeated passage of text, and what inspecting costs",
    ),
}
"""name: ("module:class", a few words)"""
