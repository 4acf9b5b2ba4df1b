"""Results of `faithfulness measure`, and the records that experiments on real layers share with them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.directions import Directions
from faithfulness_plugin.display import NotebookTable, line
from faithfulness_plugin.language_model.rows import RowsRecord
from faithfulness_plugin.measure.config import ArtifactConfig
from faithfulness_plugin.results.schema import Record, Result

if TYPE_CHECKING:  # at run time a notebook's table imports it
    import pandas as pd

ByPrompt = list[float]
"""A sum over the rows of each held-out prompt."""
Role = Literal["transcoder", "shuffled decoder", "mean ablation"]
ROLES: tuple[Role, ...] = ("transcoder", "shuffled decoder", "mean ablation")
"""The transcoder itself, and what its numbers are read beside: its decoder's directions in another order, and the
layer's mean output at every row."""
ChangeKind = Literal["input", "feature"]
CHANGES: tuple[ChangeKind, ...] = ("input", "feature")


class LayerRecord(Record):
    """One layer on the held-out prompts: the denominators of relative errors."""

    block: int
    hook_in: str
    hook_out: str
    variance: ByPrompt = Field(description="||f - E f||^2")
    jacobian: dict[Directions, ByPrompt] = Field(description="||J_f R||_F^2")
    response: dict[Directions, list[ByPrompt]] = Field(description="||f(x + eps v) - f(x)||^2, a list each distance")
    ce_clean: float = Field(description="nats a token")
    ce_zero: float = Field(description="nats a token, with zeros in the layer's place")


class SplicedRecord(Record):
    """The spliced model, prompt by prompt: nats, summed over a prompt's predicted tokens."""

    tokens: int = Field(description="predicted tokens of each prompt")
    ce: ByPrompt
    ce_clean: ByPrompt = Field(description="with the layer itself")
    ce_zero: ByPrompt = Field(description="with zeros in its place")
    kl: ByPrompt


class PassageRecord(Record):
    """A transcoder at the tokens of the passage."""

    share: float = Field(description="share of the output there that features carry which fire there alone")
    own_features: int = Field(description="number of features that fire there alone")
    fvu: float = Field(description="||t - f||^2 / ||f - E f||^2 there")
    rate_elsewhere: list[float] = Field(
        description="firing rates on other rows of these features, and of others that carry 1 % there or more"
    )
    carried: list[float] = Field(description="the part of the output that each of these features carries")


class HeldOutRecord(Record):
    """One transcoder on the held-out prompts."""

    error: ByPrompt = Field(description="||t - f||^2")
    l0: float
    dead_fraction: float
    jacobian_error: dict[Directions, ByPrompt] = Field(description="||(J_t - J_f) R||_F^2")
    jacobian_cosine: dict[Directions, float]
    floor: dict[Directions, ByPrompt] = Field(description="what (J_f - W_skip) R has beyond the active features")
    response_error: dict[Directions, list[ByPrompt]] = Field(description="||D_t - D_f||^2, a list each distance")
    response_cosine: dict[Directions, list[float]] = Field(description="one each distance")
    ce: float = Field(description="nats a token, with the transcoder in the layer's place")
    ce_recovered: float | None
    kl: float
    passage: PassageRecord | None
    spliced: SplicedRecord | None = Field(default=None, exclude_if=lambda spliced: spliced is None)


class EffectRecord(Record):
    """The effect of one change on the residual stream after one block."""

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


class ArtifactNumbers(HeldOutRecord):
    """One transcoder, or one of its references."""

    name: str
    role: Role
    architecture: str
    d_sae: int
    digest: str = Field(description="digest of the files that it was read from")
    top: list[int] = Field(
        description="the config's numbers of singular directions, up to the layer's width; none where left out"
    )
    top_error: list[float] = Field(
        description="relative Jacobian error within these numbers of J_f's first singular directions"
    )
    effects: dict[ChangeKind, list[EffectRecord]] = Field(
        description="effects of one change at one token of each prompt, in the model and in the spliced model. input: "
        "half-way to another token's; feature: what its largest feature writes is removed. Empty where left out"
    )
    deletion: DeletionRecord | None = Field(
        description="None without features, where they change no prediction, or where left out"
    )


class ArtifactResult(NotebookTable, Result):
    """The measurements of finished transcoders: all of them, or as many as were made."""

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
        description="warnings about the tensors that are measured between, where they look wrong",
    )
    measured: list[ArtifactNumbers] = Field(default_factory=list)

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {**self.config.every_field(), "rows": self.config.rows.model_dump()}

    def __repr__(self) -> str:
        said = {"model": self.model, "transcoders": list(self.config.transcoders), "complete": self.complete}
        return line("ArtifactResult", said)

    @override
    def to_frame(self) -> "pd.DataFrame":
        """Return the overview, a row per transcoder and reference."""
        import pandas as pd

        from faithfulness_plugin.measure.report import overview

        return overview(self).to_frame() if self.measured else pd.DataFrame()

    def of(self, name: str, role: Role = "transcoder") -> ArtifactNumbers | None:
        """Look up the numbers of a transcoder or of one of its references.

        Args:
            name: the transcoder's.
            role: the transcoder itself, or which reference.

        Returns:
            The numbers, or None where they are not measured.
        """
        return next((m for m in self.measured if (m.name, m.role) == (name, role)), None)

    def ordered(self) -> Sequence[ArtifactNumbers]:
        """List all numbers, the references of each transcoder after its own.

        Returns:
            What is measured so far.
        """
        found = [self.of(name, role) for name in self.config.transcoders for role in ROLES]
        return [numbers for numbers in found if numbers is not None]
