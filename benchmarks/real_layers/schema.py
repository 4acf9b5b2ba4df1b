"""The result of the experiment on real layers."""

from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.benchmarks.real_layers.arms import Arm, Kind
from faithfulness_plugin.benchmarks.real_layers.config import RealLayersConfig, Run
from faithfulness_plugin.language_model.rows import RowsRecord
from faithfulness_plugin.measure.schema import HeldOutRecord, LayerRecord
from faithfulness_plugin.results.schema import Result


class RunRecord(HeldOutRecord):
    """One transcoder of the experiment."""

    block: int
    kind: Kind
    arm: Arm
    seed: int
    repeated: bool = Field(description="whether the passage was repeated among its rows")
    seconds: float | None = Field(
        description="seconds of training, the store's reading included; None where they are not known"
    )

    @property
    def run(self) -> Run:
        """The run that this is the record of."""
        return Run(self.block, self.kind, self.arm, self.seed, self.repeated)


class RealLayersResult(Result):
    """All runs, or as many as were made."""

    schema_version: Literal[2] = 2
    model: str
    config: RealLayersConfig
    rows: list[RowsRecord] = Field(
        default_factory=list,
        exclude_if=lambda rows: not rows,
        description="which held-out rows count, layer by layer",
    )
    layers: list[LayerRecord] = Field(default_factory=list)
    trained: list[RunRecord] = Field(default_factory=list)

    @property
    @override
    def settings(self) -> dict[str, Any]:
        """All but the number of seeds: more are added to those that are there."""
        whole = {"rows": self.config.rows.model_dump(), "keep": self.config.keep}  # left out where they are defaults
        return {**self.config.model_dump(mode="json", exclude={"seeds"}), **whole}

    def layer(self, block: int) -> LayerRecord:
        """Look up a block's layer.

        Args:
            block: its number.

        Returns:
            The layer's record.
        """
        return next(layer for layer in self.layers if layer.block == block)
