"""The repository's own experiments by name, for `faithfulness experiment`."""

from typing import NamedTuple


class Listed(NamedTuple):
    """An experiment in the list."""

    place: str
    """"module:class" of the experiment."""
    config: str
    """"module:class" of its config, which help and refusals are made of: its module loads pydantic only."""
    about: str
    """What it measures, in a few words."""
    options: str = "faithfulness_plugin.results.experiment:NoOptions"
    """"module:class" of what decides no number."""
    parallel: bool = False
    """Whether several parts can run at a time: the command then has --jobs."""
    kind: str | None = None
    """The field `benchmark` of its results, where that is not its name."""


HERE = "faithfulness_plugin.benchmarks"
EXPERIMENTS: dict[str, Listed] = {
    "real-layers": Listed(
        f"{HERE}.real_layers.experiment:RealLayers",
        f"{HERE}.real_layers.config:RealLayersConfig",
        "Jacobian matching on the MLPs of a language model",
        options=f"{HERE}.real_layers.config:RealLayersOptions",
    ),
    "speed": Listed(
        f"{HERE}.timing.speed:Speed",
        f"{HERE}.timing.configs:SpeedConfig",
        "a matched step beside other ways to make it",
    ),
    "ensemble": Listed(
        f"{HERE}.timing.ensemble:Ensemble",
        f"{HERE}.timing.configs:EnsembleSpeedConfig",
        "the toy ensemble beside a loop",
        kind="ensemble-speed",
    ),
    "store": Listed(
        f"{HERE}.timing.store:StoreSpeed",
        f"{HERE}.timing.configs:StoreSpeedConfig",
        "training from a store beside from the model",
    ),
    "start-up": Listed(
        f"{HERE}.timing.start_up:StartUp",
        f"{HERE}.timing.configs:StartUpConfig",
        "how soon commands and imports answer",
    ),
    "adapter": Listed(
        f"{HERE}.timing.adapter:AdapterOverhead",
        f"{HERE}.timing.configs:OverheadConfig",
        "the term in other libraries' trainers",
    ),
    "inspection-toy": Listed(
        f"{HERE}.inspection.toy:ToyScores",
        f"{HERE}.inspection.configs:ToyScoresConfig",
        "does the datapoint score find the features that serve a repeated point?",
        parallel=True,
    ),
    "inspection-passage": Listed(
        f"{HERE}.inspection.passage:PassageScores",
        f"{HERE}.inspection.configs:PassageConfig",
        "the same for a repeated passage of text, and what inspecting costs",
    ),
}
