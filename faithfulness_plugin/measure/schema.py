"""What `faithfulness bench artifact` writes."""

from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.language_model.rows import RowsRecord
from faithfulness_plugin.measure.config import ArtifactConfig
from faithfulness_plugin.measure.held_out_schema import LayerRecord, Measured
from faithfulness_plugin.results.schema import Record, Result

Role = Literal["transcoder", "shuffled decoder", "mean ablation"]
ROLES: tuple[Role, ...] = ("transcoder", "shuffled decoder", "mean ablation")
"""The transcoder itself, and what its numbers are read beside: its decoder's directions in another order, and the
layer's mean output at every row."""
ChangeKind = Literal["input", "feature"]


class EffectRecord(Record):
    """Of one change, at the residual stream after one block."""

    stage: str
    error: float | None = Field(
        description="E||E_t - E_f||^2 / E||E_f||^2; 0 is best, 1 says that nothing of it is there; None where the "
        "change does nothing in the model"
    )
    cosine: float | None = Field(
        description="mean of cos(E_t, E_f) over the prompts that the change moves; 1 is best; None where it moves none"
    )


class DeletionRecord(Record):
    """Fields of metrics.Deletion."""

    sizes: list[int]
    by_attribution: list[float]
    at_random: list[float]
    excess: list[float]


class ArtifactNumbers(Measured):
    """One transcoder, or one of its references."""

    name: str
    role: Role
    architecture: str
    d_sae: int
    digest: str = Field(description="of the files that it was read from")
    top: list[int] = Field(description="of the config's numbers of singular directions, those that the layer has")
    top_error: list[float] = Field(description="relative Jacobian error within so many first ones of J_f")
    effects: dict[ChangeKind, list[EffectRecord]] = Field(
        description="of the same change at one token of each prompt, in the model and in the spliced model. input: "
        "half-way to another token's; feature: what its largest feature writes is taken away"
    )
    deletion: DeletionRecord | None = Field(description="None without features, or where they change no answer")


class ArtifactResult(Result):
    """All of it, or as much as was measured."""

    benchmark: Literal["faithfulness of artifacts"] = "faithfulness of artifacts"
    schema_version: Literal[1] = 1
    model: str
    config: ArtifactConfig
    layer: LayerRecord | None = None
    rows: list[RowsRecord] = Field(
        default_factory=list,
        exclude_if=lambda rows: not rows,
        description="which held-out rows count, layer by layer",
    )
    notices: list[str] = Field(
        default_factory=list,
        exclude_if=lambda notices: not notices,
        description="on the tensors that are measured between, where they look wrong",
    )
    measured: list[ArtifactNumbers] = Field(default_factory=list)

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {**self.config.model_dump(mode="json"), "rows": self.config.rows.model_dump()}

    def of(self, name: str, role: Role = "transcoder") -> ArtifactNumbers | None:
        """The numbers of a transcoder or of one of its references, if they are there."""
        return next((m for m in self.measured if (m.name, m.role) == (name, role)), None)
