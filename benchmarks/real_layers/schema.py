"""The result of the experiment on real layers."""

from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import override

from faithfulness_plugin.benchmarks.real_layers.arms import Arm
from faithfulness_plugin.benchmarks.real_layers.config import RealLayersConfig, Run
from faithfulness_plugin.benchmarks.real_layers.kinds import Kind
from faithfulness_plugin.directions import Directions
from faithfulness_plugin.language_model.rows import RowsRecord
from faithfulness_plugin.measure.schema import ByPrompt, HeldOutRecord, LayerRecord
from faithfulness_plugin.results.schema import Result

GROWS = ("blocks", "kinds", "arms", "line", "line_arms", "passage", "seeds")
"""Settings that say which runs there are, and change none of them."""
FloorOf = Literal["no skip", "mean Jacobian"]


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

    floors: dict[FloorOf, dict[Directions, ByPrompt]] | None = Field(
        default=None,
        exclude_if=lambda floors: floors is None,
        description="the floor without a skip connection, and with the layer's mean Jacobian as one, whatever this "
        "transcoder has",
    )
    peak_memory: int | None = Field(
        default=None,
        exclude_if=lambda peak: peak is None,
        description="bytes while it was trained: on a CPU the process with the model, on a GPU what tensors took",
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
    permuted: list[LayerRecord] = Field(
        default_factory=list,
        exclude_if=lambda layers: not layers,
        description="the layers with permuted weights, on the same rows",
    )
    trained: list[RunRecord] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _of_version_0_8(cls, fields: Any) -> Any:
        """Say of results that do not say it what their settings were, where today's defaults are others."""
        if isinstance(fields, dict) and isinstance(config := fields.get("config"), dict):
            before = {"keep": "derivatives", "line_arms": [{}]}
            return {**fields, "config": before | config}
        return fields

    @property
    @override
    def settings(self) -> dict[str, Any]:
        """All but what may grow: more runs are added to those that exist."""
        c = self.config
        whole = {  # left out where they are defaults
            "rows": c.rows.model_dump(),
            "keep": c.keep,
            **{name: getattr(c, name) for name in ("lr_warm_up_steps", "jacobian_warm_up_steps", "extra_compute")},
        }
        return {**c.model_dump(mode="json", exclude=set(GROWS)), **whole}

    def layer(self, block: int, layer: str = "real") -> LayerRecord:
        """Look up a block's layer.

        Args:
            block: its number.
            layer: the real one, or the one with permuted weights.

        Returns:
            The layer's record.
        """
        return next(of for of in (self.permuted if layer == "permuted" else self.layers) if of.block == block)
