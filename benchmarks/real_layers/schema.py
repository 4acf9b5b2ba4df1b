"""What `faithfulness bench language-model` writes."""

from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.benchmarks.real_layers.arms import Arm, Kind
from faithfulness_plugin.benchmarks.real_layers.config import RealLayersConfig, Run
from faithfulness_plugin.language_model.rows import RowsRecord
from faithfulness_plugin.measure.held_out_schema import LayerRecord, Measured
from faithfulness_plugin.results.schema import Result


class Trained(Measured):
    """One transcoder of the experiment."""

    block: int
    kind: Kind
    arm: Arm
    seed: int
    repeated: bool = Field(description="whether the passage was repeated among its rows")
    seconds: float | None = Field(description="of training, the store's reading included; None where it is not known")

    @property
    def run(self) -> Run:
        return Run(self.block, self.kind, self.arm, self.seed, self.repeated)


class RealLayersResult(Result):
    """All of it."""

    schema_version: Literal[2] = 2
    model: str
    config: RealLayersConfig
    rows: list[RowsRecord] = Field(
        default_factory=list,
        exclude_if=lambda rows: not rows,
        description="which held-out rows count, layer by layer",
    )
    layers: list[LayerRecord] = Field(default_factory=list)
    trained: list[Trained] = Field(default_factory=list)

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {**self.config.model_dump(mode="json"), "rows": self.config.rows.model_dump()}

    def layer(self, block: int) -> LayerRecord:
        """Of a block."""
        return next(layer for layer in self.layers if layer.block == block)
