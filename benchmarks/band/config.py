"""Settings of the experiment on a band of layers; the docstring is the command's help."""

from typing import NamedTuple

from pydantic import Field, model_validator

from faithfulness_plugin.language_model.config import ModelSource, TextSource, require_a_batch
from faithfulness_plugin.language_model.plan import Blocks
from faithfulness_plugin.language_model.rows import EVERY_ROW, RowSettings, require_rows
from faithfulness_plugin.nearest import nearest
from faithfulness_plugin.results.schema import Record

KINDS = {"per_layer": {"bandwidth": 1}, "clt": {}, "clt_tied": {"tied": True}}
"""Fields of the transcoder's config by kind."""
TERMS = {"none": {}, "own": {"own": 1.0}, "direct": {"own": 1.0, "direct": 1.0}}
"""Weights of `JacobianMatchingConfig` by term."""


class BandRun(NamedTuple):
    """One transcoder of the whole band."""

    arm: str
    """Kind and term."""
    seed: int

    @property
    def kind(self) -> str:
        """A key of `KINDS`."""
        return self.arm.rpartition("-")[0]

    @property
    def term(self) -> str:
        """A key of `TERMS`."""
        return self.arm.rpartition("-")[2]


ARMS = [f"{kind}-{term}" for kind in ("per_layer", "clt") for term in TERMS if (kind, term) != ("per_layer", "direct")]


class BandConfig(Record):
    """What does a cross-layer transcoder of a band of layers keep of a language model? Trains per-layer and cross-layer
    TopK transcoders of the band's MLPs at equal L0 and parameters, with and without terms that ask for derivatives, and
    measures them on held-out prompts: unexplained variance, hops kept, the model with all layers of the band replaced,
    and whether the effects that attribution predicts are those in the model itself.
    """

    model: ModelSource = ModelSource()
    text: TextSource = TextSource()
    rows: RowSettings = Field(default=EVERY_ROW, exclude_if=lambda rows: rows == EVERY_ROW)
    device: str = Field(default="cpu", description="where models run: cpu or cuda")
    blocks: Blocks = Field(default=[10, 11, 12, 13, 14, 15], description="blocks whose MLPs are replaced together")
    arms: list[str] = Field(default=ARMS, min_length=1, description="kind-term, such as clt-direct; may be repeated")
    seed: int = Field(default=0, ge=0, lt=2**61, description="the first seed; it decides the prompts' order as well")
    n_seeds: int = Field(default=3, ge=1, description="how many seeds")
    d_sae: int = Field(default=512, ge=1, description="features of each layer of a cross-layer transcoder")
    k: int = Field(default=32, ge=1, description="features of each layer that are active a row")
    coefficient: float = Field(default=0.3, gt=0, description="coefficient of the Jacobian term")
    context_size: int = Field(default=128, ge=2, description="tokens of each prompt")
    prompts_per_pass: int = Field(default=8, ge=1, description="prompts that the model is run on at a time")
    stored_prompts: int = Field(default=512, ge=1, description="prompts whose rows are kept in memory; an epoch")
    tokens: int = Field(default=128_000, ge=1, description="rows that every transcoder is trained on")
    batch_size: int = Field(default=512, ge=2, description="rows a step")
    lr: float = Field(default=4e-3, gt=0, description="learning rate")
    lr_decay_share: float = Field(default=0.2, ge=0, le=1, description="share of the steps over which lr falls to 0")
    held_out_prompts: int = Field(default=16, ge=2, description="prompts on which transcoders are measured")
    truth_prompts: int = Field(default=16, ge=2, description="prompts on which interventions are done")
    truth_tokens: int = Field(default=32, ge=2, description="tokens of each of them")
    interventions: int = Field(default=5, ge=1, description="interventions of each of four kinds on each prompt")
    targets: int = Field(default=32, ge=1, description="features of each prompt whose responses are compared")

    @model_validator(mode="after")
    def _fits(self) -> "BandConfig":
        require_rows(self.rows, self.context_size)
        require_rows(self.rows, self.truth_tokens)
        require_a_batch(self.tokens, self.batch_size)
        known = [f"{kind}-{term}" for kind in KINDS for term in TERMS]
        if unknown := next((arm for arm in self.arms if arm not in known), None):
            raise ValueError(f"arms: there is no arm {unknown!r}: {nearest(unknown, known)}")
        if len({*self.arms}) < len(self.arms):
            raise ValueError("arms: one is given twice: leave it out once")
        if self.blocks != "all" and len(self.blocks) < 2:
            raise ValueError("blocks: a band has two blocks or more")
        if self.rows.norms_above is not None:
            raise ValueError("rows: norms_above leaves out other tokens at each layer: leave it out for a band")
        if self.truth_tokens > self.context_size:
            raise ValueError(f"truth_tokens: prompts have {self.context_size} tokens")
        if self.k > self.d_sae:
            raise ValueError(f"k={self.k}: choose at most d_sae={self.d_sae}")
        return self

    @property
    def n_steps(self) -> int:
        """Optimizer steps of each transcoder."""
        return -(-self.tokens // self.batch_size)

    def runs(self) -> list[BandRun]:
        """List all transcoders, seed by seed.

        Returns:
            The runs.
        """
        return [BandRun(arm, self.seed + n) for n in range(self.n_seeds) for arm in self.arms]

    def features(self, kind: str, n_layers: int) -> int:
        """Compute how many features of each layer make the parameters equal to the cross-layer transcoder's.

        With d_in = d_out, L layers of n features have L encoders and, across layers, L (L + 1) / 2 decoders of n
        vectors; per-layer transcoders, or tied ones, have L of each.

        Args:
            kind: a key of `KINDS`.
            n_layers: L.

        Returns:
            The number of features.
        """
        return self.d_sae if kind == "clt" else round(self.d_sae * (n_layers + 3) / 4)
