"""The repository's own experiments by name, for `faithfulness experiment`."""

from pathlib import Path
from typing import NamedTuple

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.nearest import nearest


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
    presets: str | None = None
    """The folder of settings by name, beside this module; the command then has --preset."""
    kind: str | None = None
    """The field `benchmark` of its results, where that is not its name."""

    def preset_path(self, name: str) -> Path:
        """Find a preset's file.

        Args:
            name: the preset's.

        Returns:
            Its path.

        Raises:
            UsageError: there is no such preset; the message names the nearest.
        """
        if self.presets is None:
            raise UsageError("--preset: this experiment has no presets: leave it out")
        if name not in (names := self.preset_names):
            raise UsageError(f"--preset: there is no preset {name}: {nearest(name, names)}")
        return FOLDER / self.presets / f"{name}.yaml"

    @property
    def preset_names(self) -> list[str]:
        """The names of the presets, in alphabetical order."""
        return [] if self.presets is None else sorted(path.stem for path in (FOLDER / self.presets).glob("*.yaml"))


HERE = "faithfulness_plugin.benchmarks"
FOLDER = Path(__file__).parent
EXPERIMENTS: dict[str, Listed] = {
    "real-layers": Listed(
        f"{HERE}.real_layers.experiment:RealLayers",
        f"{HERE}.real_layers.config:RealLayersConfig",
        "Jacobian matching on the MLPs of a language model",
        options=f"{HERE}.real_layers.config:RealLayersOptions",
        presets="real_layers/presets",
    ),
    "whole-model": Listed(
        f"{HERE}.whole_model.experiment:WholeModel",
        f"{HERE}.whole_model.config:WholeModelConfig",
        "does matching make attribution graphs tell the truth? every layer of a model replaced",
        options=f"{HERE}.whole_model.config:WholeModelOptions",
        presets="whole_model/presets",
        kind="whole model",
    ),
    "chains": Listed(
        f"{HERE}.chains.experiment:Chains",
        f"{HERE}.chains.config:ChainsConfig",
        "the benchmark's second track: do cross-layer transcoders keep the hops of a chain?",
        parallel=True,
        presets="chains/presets",
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
    "band": Listed(
        f"{HERE}.band.experiment:Band",
        f"{HERE}.band.config:BandConfig",
        "a cross-layer transcoder of a band of a language model's layers, beside one for each",
        presets="band/presets",
    ),
    "cross-layer-cost": Listed(
        f"{HERE}.timing.cross_layer:CrossLayerCost",
        f"{HERE}.timing.configs:CrossLayerCostConfig",
        "a step of cross-layer transcoders, by pairs of layers",
    ),
    "store": Listed(
        f"{HERE}.timing.store:StoreSpeed",
        f"{HERE}.timing.configs:StoreSpeedConfig",
        "training from a store beside training from the model",
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
    "readability": Listed(
        f"{HERE}.readability.experiment:Readability",
        f"{HERE}.readability.config:ReadabilityConfig",
        "does matching cost readability? features of a real-layers result, arm by arm",
    ),
}
