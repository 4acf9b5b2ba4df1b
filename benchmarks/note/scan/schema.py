"""The typed result of `faithfulness scan`."""

from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.benchmarks.note.scan.spec import Point, ScanSpec, Value
from faithfulness_plugin.benchmarks.note.toy_records import Projection, RunMetrics
from faithfulness_plugin.results.schema import Record, Result


class FeatureWeights(Record):
    """The features that matter, their largest contribution first. Rounded to 4 decimals."""

    features: list[int]
    W_enc: list[list[float]] = Field(description="[feature][d_in]")
    b_enc: list[float]
    W_dec: list[list[float]] = Field(description="[feature][d_out]")


class NearPointCurves(Record):
    """Fields of metrics.NearPoint."""

    distances: list[float]
    error: list[float]
    values: list[float]
    error_one_changed: list[float]


class Masking(Record):
    """Fields of metrics.GradientMasking."""

    index: float
    written: float
    ratio: float
    barely_active: float


class Spectrum(Record):
    """Fields of metrics.JacobianSpectrum."""

    layer: list[float]
    transcoder: list[float]
    rank: float
    relative_error: float
    top: list[int]
    top_error: list[float]


class AbsScore(Record):
    """The same transcoder scored against |x|, whatever layer it was trained on."""

    recovered: int = Field(description="of |x|'s 2 d_in circuits")
    fvu: float
    jacobian_error: float


class Extras(Record):
    """What was asked for beside the metrics."""

    jacobian_at_point: list[list[float]] | None = Field(default=None, description="J_t at p, [d_out][d_in]")
    projection: Projection | None = None
    weights: FeatureWeights | None = None
    near_point: NearPointCurves | None = None
    masking: Masking | None = None
    spectrum: Spectrum | None = None
    abs_score: AbsScore | None = None
    point_circuit: float | None = Field(default=None, description="largest cosine of a feature with p's circuit")


class Trained(Record):
    """One transcoder of the scan."""

    arm: str
    values: dict[str, Value]
    seed: int
    metrics: RunMetrics
    extras: Extras
    history: list[dict[str, float]] = Field(description="records over training, where they were asked for")

    @property
    def point(self) -> Point:
        return Point(arm=self.arm, values=self.values, seed=self.seed)


class ScanResult(Result):
    """The whole scan, or as much of it as was run, in the scan's own order."""

    benchmark: Literal["scan"] = "scan"
    schema_version: Literal[1] = 1
    spec: ScanSpec
    trained: list[Trained]

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return self.spec.model_dump(exclude={"name"})

    @override
    def enlarged(self, fresh: "ScanResult") -> "ScanResult | None":
        if self.spec.seeds >= fresh.spec.seeds or {**self.settings, "seeds": fresh.spec.seeds} != fresh.settings:
            return None
        return fresh.model_copy(update={"environment": self.environment, "trained": self.trained})

    def of(self, arm: str | None = None, **values: Value) -> list[Trained]:
        """Select the transcoders of an arm at these values of the grid.

        Args:
            arm: its name, or None for all arms.
            **values: settings that the grid varies; those left out may have any value.

        Returns:
            The transcoders, in the scan's order.
        """
        return [
            t
            for t in self.trained
            if (arm is None or t.arm == arm) and all(t.values[name] == value for name, value in values.items())
        ]
