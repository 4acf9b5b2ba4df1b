"""The repository's own experiments by name: where each is, and what it measures, for `faithfulness experiment`."""

EXPERIMENTS: dict[str, tuple[str, str]] = {
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
