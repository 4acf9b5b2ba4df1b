"""The result of the experiment on readability."""

from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.benchmarks.readability.config import ReadabilityConfig
from faithfulness_plugin.benchmarks.real_layers.arms import Arm
from faithfulness_plugin.benchmarks.real_layers.config import Run
from faithfulness_plugin.benchmarks.real_layers.kinds import Kind
from faithfulness_plugin.results.schema import Record, Result

Numbers = list[float | None]
"""A number a feature; None where it is undefined."""


class LayerContext(Record):
    """What is the same for all transcoders of one layer."""

    block: int
    prompts: int
    rows: int = Field(description="tokens that counted")
    random_cosine: float = Field(description="mean cosine of the residual stream at rows of different prompts, centred")
    words: int = Field(description="words that first letters were read at, those to fit on included")
    probe_accuracy: float = Field(description="share of test words whose letter has the largest score")
    probe_chance: float = Field(description="accuracy of the most frequent letter")
    probe_f1: Numbers = Field(description="F1 of each letter's probe on test words; None for letters without one")
    test_words: list[int] = Field(description="test words of each letter")

    def letters(self, config: ReadabilityConfig) -> list[int]:
        """List the letters that can be read off the layer's output, in enough words.

        Args:
            config: the thresholds.

        Returns:
            Their numbers.
        """
        each = zip(self.probe_f1, self.test_words, strict=True)
        enough = [f1 is not None and f1 >= config.probe_f1 and n >= config.least_words for f1, n in each]
        return [letter for letter, counts in enumerate(enough) if counts]


class LetterRecord(Record):
    """What one transcoder does with one letter that the layer's output tells."""

    letter: str
    main: list[int] = Field(description="its main features; more than one where it is split")
    f1: list[float] = Field(description="F1 with the first, the first two, ... of them, on test words")
    words: int = Field(description="test words that begin with it and of which the probe says so")
    silent: int = Field(description="of these, words at which no main feature fires")
    absorbed: int = Field(description="of these, words at which another feature says the letter instead")


class FeatureNumbers(Record):
    """One transcoder: lists with a number a feature."""

    block: int
    kind: Kind
    arm: Arm
    seed: int
    n_rows: int
    fires: list[int] = Field(description="rows on which each feature fires")
    duplicate: list[int] = Field(description="features with a near-duplicate")
    nearest: Numbers = Field(description="largest decoder cosine with another live feature")
    r2_token: Numbers = Field(description="R^2 from the token, on held-out rows")
    r2_neighbours: Numbers = Field(description="R^2 from the token and the two before it")
    coherence: Numbers = Field(description="mean cosine of the residual stream at its top rows, beyond random rows")
    energy: list[float] = Field(description="E[a^2] ||W_dec||^2")
    log10_rate_quantiles: list[float] = Field(description="of live features, at .05, .25, .5, .75 and .95")
    skip_carried: float | None = Field(description="part of the layer's output that the skip connection explains")
    skip_of_output: float | None = Field(description="its energy as a part of the transcoder's output energy")
    letters: list[LetterRecord] | None = Field(description="None where too few letters can be read off the layer")

    @property
    def run(self) -> Run:
        """The run of the real-layers result."""
        return Run(self.block, self.kind, self.arm, self.seed, False)


class MatchedPair(Record):
    """The features of a transcoder, each with its partner in another one of the same layer."""

    block: int
    kind: Kind
    arm: Arm
    seed: int
    reference: Arm = Field(description="the other transcoder's arm")
    reference_seed: int
    cosine: Numbers = Field(description="of the partners' decoders, a number a live feature of the reference")
    energy_ratio: Numbers = Field(description="energy of the partner / energy of the reference's feature")


class ReadabilityResult(Result):
    """All transcoders and pairs of them, or as many as were measured."""

    benchmark: Literal["readability"] = "readability"
    schema_version: Literal[1] = 1
    model: str
    config: ReadabilityConfig
    layers: list[LayerContext] = Field(default_factory=list)
    measured: list[FeatureNumbers] = Field(default_factory=list)
    matched: list[MatchedPair] = Field(default_factory=list)

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {"model": self.model, **self.config.model_dump()}

    def layer(self, block: int) -> LayerContext:
        """Look up a layer's record.

        Args:
            block: its number.

        Returns:
            The record.
        """
        return next(of for of in self.layers if of.block == block)
