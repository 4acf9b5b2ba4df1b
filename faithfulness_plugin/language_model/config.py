"""Settings of `faithfulness train`: model, text, layers, transcoder, estimator, budget."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.jacobian.matching_config import JacobianMatchingConfig, as_config, of_one_layer
from faithfulness_plugin.language_model.plan import ALL, ArmSettings, Blocks, PlannedTranscoder, planned, require_arms
from faithfulness_plugin.language_model.rows import EVERY_ROW, RowSettings, require_rows
from faithfulness_plugin.language_model.store_settings import AS_BEFORE, StoreSettings
from faithfulness_plugin.language_model.transcoder_settings import DEFAULTS, SETTINGS, Architecture, checked_settings
from faithfulness_plugin.results.schema import Record
from faithfulness_plugin.results.settings_file import make_config, read_settings

OFFLINE_MODEL = "smollm2"
OFFLINE_TEXT = "speeches"
COEFFICIENTS = (0.0, 0.3)
FEW_BLOCKS = 4
"""With more blocks than these, tables show means over blocks, and the spliced model is run on fewer prompts."""
MIXED = 0.5
"""The share of the buffer that stays when it is refilled."""


class TrainConfigError(UsageError):
    """A model, layer or text that is not as the settings ask for it; the message says what to do."""


class ModelSource(Record):
    """Where the language model comes from."""

    name: str = Field(
        default=OFFLINE_MODEL,
        description=f"a name on the Hugging Face hub, a folder, or {OFFLINE_MODEL}, which needs no hub",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class TextSource(Record):
    """Where the text comes from."""

    name: str = Field(
        default=OFFLINE_TEXT, description=f"a dataset on the Hugging Face hub, or {OFFLINE_TEXT}, which needs no hub"
    )
    files: list[str] = Field(
        default_factory=list, description="text files, or folders of .txt files, read in place of `name`"
    )
    subset: str | None = Field(default=None, description="the dataset's subset")
    split: str = Field(default="train", description="the dataset's split")
    column: str = Field(default="text", description="the dataset's column of text")
    repeat: bool = Field(default=False, description="start again where the text ends before the budget is used up")

    @property
    def streamed(self) -> bool:
        """Whether the text is a dataset on the hub, whose length nobody knows."""
        return not self.files and self.name != OFFLINE_TEXT

    @property
    def title(self) -> str:
        """The name in model cards and metadata."""
        return ", ".join(self.files) or self.name


class ModelOnText(Record):
    """A model, and the prompts of a text that it is run on."""

    model: ModelSource = ModelSource()
    text: TextSource = TextSource()
    rows: RowSettings = EVERY_ROW
    context_size: int = Field(default=128, ge=2, description="tokens a prompt")
    prompts_per_pass: int = Field(default=8, ge=1, description="prompts that the model is run on at a time")
    seed: int = Field(default=0, description="of the prompts' order")
    device: str = "cpu"


class TrainConfig(Record):
    """One run: a transcoder for every block, arm and seed, from one pass over the model."""

    INSIDE: ClassVar[dict[str, frozenset[str]]] = {
        "transcoder": frozenset(name for of in SETTINGS.values() for name in of.model_fields),
        "jacobian": frozenset(field.name for field in fields(JacobianMatchingConfig)),
        "rows": frozenset(RowSettings.model_fields),
        "stores": frozenset({"keep"}),
    }
    """Names that belong to a setting of this one, for those who write them beside it."""
    model: ModelSource = ModelSource()
    text: TextSource = TextSource()
    blocks: Blocks = Field(
        default=[10], min_length=1, description="blocks whose MLPs are replaced; all: every block that has one"
    )
    architecture: Architecture = "topk"
    transcoder: dict[str, Any] = Field(
        default_factory=lambda data: dict(DEFAULTS.get(data.get("architecture", "topk"), {})),
        description="fields of the architecture's config: d_sae, k, skip, sparsity_coefficient and the like",
    )
    jacobian: dict[str, Any] = Field(
        default={"probe": "pair"},
        description="fields of JacobianMatchingConfig: estimator, probe and the like",
    )
    coefficients: list[float] = Field(
        default=list(COEFFICIENTS), min_length=1, description="coefficients of the Jacobian term; 0 trains without it"
    )
    arms: dict[str, ArmSettings] = Field(
        default_factory=dict,
        exclude_if=lambda arms: not arms,
        description="in place of coefficients, arms by name, each with its coefficient, skip and jacobian",
    )
    tokens: int = Field(default=300_000, ge=1, description="tokens that every transcoder is trained on")
    batch_size: int = Field(default=512, ge=2, description="tokens of each step")
    lr: float = Field(default=4e-3, gt=0)
    lr_warm_up_steps: int = Field(default=0, ge=0)
    lr_decay_share: float = Field(
        default=0.2, ge=0, le=1, description="share of the steps, at the end, over which lr falls to 0"
    )
    context_size: int = Field(default=128, ge=2, description="tokens of each prompt")
    prompts_per_pass: int = Field(default=8, ge=1, description="prompts that the model is run on at a time")
    buffer_prompts: int = Field(
        default=64, ge=1, description="prompts whose rows are shuffled together: more take more memory"
    )
    buffer_dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None,
        exclude_if=lambda dtype: dtype is None,
        description="dtype of the rows in the buffer; null for the model's",
    )
    held_out_prompts: int = Field(
        default=16, ge=1, description="prompts for evaluation, never trained on; rounded up to whole passes"
    )
    spliced_prompts: int | None = Field(
        default=None,
        ge=1,
        exclude_if=lambda n: n is None,
        description="held-out prompts that the model is run on with a transcoder in its layer's place; null for all, "
        f"or one pass of them where there are more than {FEW_BLOCKS} blocks",
    )
    evaluations: int = Field(
        default=1, ge=1, description="evaluations during training, after equal parts of it; one more comes before it"
    )
    checkpoints: int = Field(
        default=4, ge=0, description="checkpoints during training; an interrupted run leaves one anyway"
    )
    rows: RowSettings = Field(default=EVERY_ROW, exclude_if=lambda rows: rows == EVERY_ROW)
    stores: StoreSettings = Field(default=AS_BEFORE, exclude_if=lambda stores: stores == AS_BEFORE)
    device: Literal["cpu", "cuda"] = "cpu"
    prefetch: int = Field(default=0, ge=0, description="batches that a second thread makes ahead")
    seed: int = Field(default=0, ge=0, lt=2**61, description="the first seed; it decides the prompts' order as well")
    seeds: int = Field(default=1, ge=1, description="how many seeds of weights and probes, all on the same rows")
    wandb: bool = False

    @field_validator("blocks", "coefficients")
    @classmethod
    def _once(cls, values: Any) -> Any:
        if values != ALL and len(set(values)) < len(values):
            raise ValueError("a value is given twice: leave one of them out")
        return values

    @field_validator("coefficients")
    @classmethod
    def _not_negative(cls, values: list[float]) -> list[float]:
        if min(values) < 0:
            raise ValueError(f"{min(values)} is negative: a coefficient is 0 or more")
        return values

    @model_validator(mode="after")
    def _fits(self) -> "TrainConfig":
        require_rows(self.rows, self.context_size)
        if self.buffer_rows < self.batch_size:
            raise ValueError(
                f"buffer_prompts x context_size = {self.buffer_rows} rows do not hold one batch "
                f"of {self.batch_size}: raise buffer_prompts"
            )
        require_a_batch(self.tokens, self.batch_size)
        require_arms(self.arms, with_coefficients=self.coefficients != list(COEFFICIENTS))
        checked_settings(self.architecture, self.transcoder)
        for arm in [*self.arms.values(), ArmSettings()]:
            of_one_layer(as_config({"seed": self.seed, **self.jacobian, **arm.jacobian}))
        return self

    @property
    def n_steps(self) -> int:
        """Optimizer steps of each transcoder."""
        return -(-self.tokens // self.batch_size)

    @property
    def held_out(self) -> int:
        """Prompts that are held out, in whole passes."""
        return -(-self.held_out_prompts // self.prompts_per_pass) * self.prompts_per_pass

    @property
    def buffer_rows(self) -> int:
        """Rows that the buffer holds."""
        return self.buffer_prompts * (self.context_size - self.rows.skip_first)

    @property
    def rows_needed(self) -> int:
        """Tokens of text that go into the buffer by the end: some are never served."""
        capacity = self.buffer_rows
        served = max(1, int(capacity * (1 - MIXED)) // self.batch_size) * self.batch_size
        rounds = -(-self.n_steps * self.batch_size // served)
        return capacity + (rounds - 1) * served

    def spliced(self, n_blocks: int) -> int:
        """Count the held-out prompts that the spliced model is run on.

        Args:
            n_blocks: how many blocks the run has.

        Returns:
            Prompts.
        """
        few = self.held_out if n_blocks <= FEW_BLOCKS else self.prompts_per_pass
        return min(self.held_out, few if self.spliced_prompts is None else self.spliced_prompts)

    def transcoder_config(
        self, d_in: int, d_out: int, coefficient: float, seed: int = 0, arm: str | None = None
    ) -> Any:
        """Build the config of one transcoder.

        Args:
            d_in: width of the layer's input.
            d_out: width of its output.
            coefficient: weight of the Jacobian term.
            seed: decides the probes.
            arm: the arm's name, where the settings name arms.

        Returns:
            A config of the architecture.

        Raises:
            ValueError: fields that do not exist or do not fit.
        """
        from faithfulness_plugin.transcoders.architectures import ARCHITECTURES

        of = ArmSettings() if arm is None else self.arms[arm]
        skip = {} if of.skip is None else {"skip": of.skip}
        return ARCHITECTURES[self.architecture][0](
            d_in=d_in,
            d_out=d_out,
            jacobian={"seed": seed, **self.jacobian, **of.jacobian},
            jacobian_coefficient=coefficient,
            device=self.device,
            **checked_settings(self.architecture, {**self.transcoder, **skip}),
        )

    def planned(self, blocks: Sequence[int] | None = None) -> list[PlannedTranscoder]:
        """List every transcoder that is to be trained.

        Args:
            blocks: the blocks of the model, where the settings say `all`; None where they list them.

        Returns:
            Blocks first, then arms, then seeds; none where `all` stands for blocks that are not known.
        """
        listed = [] if isinstance(self.blocks, str) else self.blocks
        seeds = range(self.seed, self.seed + self.seeds)
        return list(planned(listed if blocks is None else blocks, self.coefficients, self.arms, seeds))


def require_a_batch(tokens: int, batch_size: int) -> None:
    """Refuse fewer tokens than one batch takes.

    Args:
        tokens: to train on.
        batch_size: tokens a step.

    Raises:
        ValueError: they do not make one batch.
    """
    if tokens < batch_size:
        raise ValueError(f"tokens={tokens} do not make one batch of {batch_size}: raise tokens")


def read_config(path: Path) -> TrainConfig:
    """Read the settings in a YAML file.

    Args:
        path: the file.

    Returns:
        The settings, with defaults for what it does not say.

    Raises:
        SettingsError: a file that cannot be read, or settings that do not fit.
    """
    return make_config(read_settings(path), str(path), TrainConfig)
