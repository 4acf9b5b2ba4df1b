"""Settings of the experiment with every layer replaced; the docstring is the command's help."""

from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from faithfulness_plugin.benchmarks.real_layers.arms import NONE, SKIP, Arm
from faithfulness_plugin.benchmarks.real_layers.config import FOLDER_NAME, RECIPES
from faithfulness_plugin.benchmarks.real_layers.kinds import Kind
from faithfulness_plugin.benchmarks.whole_model.arms import SetArm
from faithfulness_plugin.language_model.config import ModelSource, TextSource, require_a_batch
from faithfulness_plugin.language_model.plan import Blocks
from faithfulness_plugin.language_model.rows import EVERY_ROW, RowSettings, require_rows
from faithfulness_plugin.results.schema import Record


class SetRun(NamedTuple):
    """One set of transcoders."""

    arm: SetArm
    seed: int

    @property
    def name(self) -> str:
        """The name in progress lines."""
        return f"{self.arm.name}, seed {self.seed}"

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return self.name.translate(FOLDER_NAME).replace("--", "_")

    @property
    def before(self) -> "SetRun":
        """The run whose transcoders it begins with, or takes: itself where it trains its own."""
        return SetRun(self.arm.before, self.seed)

    @property
    def trained(self) -> "SetRun":
        """The run whose transcoders are saved for it: that of the arm itself, where shuffled decoders take its own."""
        return self if self.arm.then is not None else self.before


MATCHED = RECIPES[0]
ARMS = [
    SetArm(arm=NONE),
    SetArm(arm=SKIP),
    SetArm(arm=MATCHED.model_copy(update={"skip": False})),
    SetArm(arm=MATCHED),
]
SIDE_ARMS = [
    SetArm(arm=Arm(skip=True, term="augmentation", probe="difference", coefficient=1.0)),
    SetArm(arm=MATCHED, control="shuffled decoders"),
]


class WholeModelConfig(Record):
    """Does Jacobian matching make attribution graphs tell the truth? Trains a transcoder for every MLP of a language
    model, with and without a skip connection and a Jacobian term, predicts from the attribution graph what removing or
    doubling features and moving inputs does to logits and later features, and measures it in the model itself. Beside
    it: what all transcoders together cost the model, the graphs' scores, and a short phase of training end to end.
    """

    model: ModelSource = ModelSource()
    text: TextSource = TextSource()
    rows: RowSettings = Field(default=EVERY_ROW, exclude_if=lambda rows: rows == EVERY_ROW)
    seed: int = Field(default=0, ge=0, lt=2**61, description="the first seed; it decides the prompts' order as well")
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="where models run: cpu or cuda")
    blocks: Blocks = Field(default="all", description="blocks whose MLPs are replaced; all: every block that has one")
    kind: Kind = Kind()
    d_sae: int = Field(default=1152, ge=1, description="features of each transcoder")
    arms: list[SetArm] = Field(default=ARMS, min_length=1, description="trained with every seed")
    side_arms: list[SetArm] = Field(default=SIDE_ARMS, description="trained with the first seeds alone")
    seeds: int = Field(default=1, ge=1, description="how many seeds")
    side_seeds: int = Field(default=1, ge=1, description="how many of the seeds side_arms are trained with")
    context_size: int = Field(default=128, ge=2, description="tokens of each prompt that is trained on")
    prompts_per_pass: int = Field(default=8, ge=1, description="prompts that the model is run on at a time")
    stored_prompts: int = Field(default=1024, ge=1, description="prompts whose rows are kept; an epoch")
    prompts_per_shard: int = Field(default=64, ge=1, description="prompts whose rows a file of a store holds")
    stored_dtype: Literal["float16", "bfloat16", "float32", "float64"] = Field(
        default="float16", description="dtype of the rows in stores"
    )
    tokens: int = Field(default=128_000, ge=1, description="tokens that every transcoder is trained on")
    batch_size: int = Field(default=512, ge=2, description="tokens a step")
    lr: float = Field(default=4e-3, gt=0, description="learning rate of each transcoder on its own layer")
    lr_decay_share: float = Field(default=0.2, ge=0, le=1, description="share of the steps over which lr falls to 0")
    phase_tokens: int = Field(default=16_384, ge=1, description="tokens of the second phase, with all layers replaced")
    phase_lr: float = Field(default=4e-4, gt=0, description="learning rate of the second phase")
    held_out_prompts: int = Field(default=16, ge=2, description="prompts for errors of layers, and for the loss")
    truth_prompts: int = Field(default=50, ge=2, description="prompts on which interventions are done")
    truth_tokens: int = Field(default=32, ge=2, description="tokens of each prompt on which interventions are done")
    interventions: int = Field(default=3, ge=1, description="interventions of each of four kinds on each prompt")
    targets: int = Field(default=32, ge=1, description="features of each prompt whose responses are compared")
    graph_prompts: int = Field(
        default=3, ge=0, description="how many of the prompts with interventions have their graphs scored"
    )
    graph_features: int = Field(default=1024, ge=1, description="features of each graph")

    @model_validator(mode="after")
    def _fits(self) -> "WholeModelConfig":
        require_rows(self.rows, self.context_size)
        require_rows(self.rows, self.truth_tokens)
        require_a_batch(self.tokens, self.batch_size)
        every = [*self.arms, *self.side_arms]
        if twice := next((arm for arm in every if every.count(arm) > 1), None):
            raise ValueError(f"arms and side_arms: {twice.name} is given twice: leave one of them out")
        if self.side_seeds > self.seeds:
            raise ValueError(f"side_seeds: choose at most {self.seeds}, the number of seeds")
        if self.graph_prompts > self.truth_prompts:
            raise ValueError(f"graph_prompts: choose at most {self.truth_prompts}, the number of truth_prompts")
        if self.truth_tokens > self.context_size:
            raise ValueError(f"truth_tokens: choose at most {self.context_size}, the tokens of a prompt")
        for arm in self.side_arms:
            if arm.before != arm and arm.before not in every:
                raise ValueError(f"{arm.name} begins with {arm.before.name}: add that arm")
        for arm in self.arms:
            if arm.before != arm and arm.before not in self.arms:
                raise ValueError(f"{arm.name} begins with {arm.before.name}: add that arm to arms")
        if self.rows.norms_above is not None:
            raise ValueError("rows: norms_above leaves out other tokens at each layer: leave it out for whole models")
        if self.kind.architecture != "topk" and (then := next((arm for arm in every if arm.then), None)):
            raise ValueError(f"{then.name}: a second phase is known for topk alone: leave the arm out")
        self.kind.checked(self.d_sae)
        return self

    @property
    def n_steps(self) -> int:
        """Optimizer steps of each transcoder."""
        return -(-self.tokens // self.batch_size)

    def runs(self) -> list[SetRun]:
        """List all sets, seed by seed; those that others begin with first.

        Returns:
            The runs.
        """
        found = []
        for seed in range(self.seeds):
            arms = [*self.arms, *(self.side_arms if seed < self.side_seeds else [])]
            arms.sort(key=lambda arm: arm.before != arm)
            found += [SetRun(arm, self.seed + seed) for arm in arms]
        return found


class WholeModelOptions(Record):
    """What decides no number."""

    stores: str | None = Field(default=None, description="folder for stores of rows [default: stores in --out]")
