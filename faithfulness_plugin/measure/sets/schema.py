"""Results of `faithfulness measure` on sets."""

from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.display import line
from faithfulness_plugin.language_model.rows import RowsRecord
from faithfulness_plugin.measure.schema import ByPrompt, ChangeKind
from faithfulness_plugin.measure.sets.config import SetConfig
from faithfulness_plugin.results.schema import Record, Result


class LayerNumbers(Record):
    """One transcoder of a set beside its layer, at the rows of the model as it is."""

    block: int
    name: str
    digest: str = Field(description="digest of the files that it was read from")
    hook_in: str
    hook_out: str
    d_sae: int
    error: ByPrompt = Field(description="||t - f||^2")
    variance: ByPrompt = Field(description="||f - E f||^2")
    l0: float
    dead_fraction: float


class ReplacedNumbers(Record):
    """The model with some layers replaced, prompt by prompt: sums over a prompt's predicted tokens."""

    blocks: list[int]
    errors: bool = Field(description="with error nodes, which give the model's own logits")
    ce: ByPrompt = Field(description="nats")
    kl: ByPrompt = Field(description="nats, of the model's next token from that with the layers replaced")
    agreed: ByPrompt = Field(description="tokens at which both models' likeliest next token is the same")
    logits_error: float = Field(description="largest difference of a logit from the model's, relative to their rms")


class DoseCurve(Record):
    """The effect of one change on the residual stream after one later block, against the change's size."""

    stage: str
    error: list[float | None] = Field(
        description="E||E_t - E_f||^2 / E||E_f||^2, one a dose; None where the change does nothing in the model"
    )
    cosine: list[float | None] = Field(description="mean of cos(E_t, E_f) over the prompts that the change moves")


class ChangeNumbers(Record):
    """One change at one token of each prompt, in the model and in the model with all layers replaced."""

    block: int = Field(description="whose layer's input or output is changed")
    change: ChangeKind
    errors: bool = Field(description="with error nodes, so that both models are alike before the change")
    stages: list[DoseCurve]


class SetNumbers(Record):
    """One set."""

    name: str
    missing: list[int] = Field(description="blocks whose MLP no transcoder replaces")
    layers: list[LayerNumbers] = Field(default_factory=list)
    replaced: list[ReplacedNumbers] = Field(default_factory=list)
    changes: list[ChangeNumbers] = Field(default_factory=list)

    @property
    def blocks(self) -> list[int]:
        """Those that have a transcoder."""
        return [of.block for of in self.layers]

    def of(self, blocks: list[int], *, errors: bool = False) -> ReplacedNumbers | None:
        """Look up the model with these layers replaced.

        Args:
            blocks: whose layers.
            errors: with error nodes or without.

        Returns:
            The numbers; None where they are not measured.
        """
        return next((r for r in self.replaced if (r.blocks, r.errors) == (blocks, errors)), None)


class SetResult(Result):
    """The measurements of sets: all of them, or as many as were made."""

    benchmark: Literal["faithfulness of sets"] = "faithfulness of sets"
    schema_version: Literal[1] = 1
    model: str
    config: SetConfig
    tokens: int = Field(default=0, description="predicted tokens of each prompt")
    ce_clean: ByPrompt = Field(default_factory=list, description="nats, of the model as it is")
    rows: list[RowsRecord] = Field(default_factory=list, description="which held-out rows count, layer by layer")
    measured: list[SetNumbers] = Field(default_factory=list)

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {**self.config.every_field(), "rows": self.config.rows.model_dump()}

    def __repr__(self) -> str:
        said = {"model": self.model, "sets": list(self.config.sets), "complete": self.complete}
        return line("SetResult", said)

    def named(self, name: str) -> SetNumbers | None:
        """Look up a set.

        Args:
            name: the set's.

        Returns:
            Its numbers so far; None where it was not begun.
        """
        return next((of for of in self.measured if of.name == name), None)

    def with_set(self, changed: SetNumbers) -> "SetResult":
        """Put the numbers of a set in the place of its earlier ones.

        Args:
            changed: its numbers.

        Returns:
            The result with them.
        """
        kept = [of for of in self.measured if of.name != changed.name]
        return self.model_copy(update={"measured": [*kept, changed]})
