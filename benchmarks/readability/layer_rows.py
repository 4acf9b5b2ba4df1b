"""What all transcoders of one layer are measured on: rows of held-out text, and words whose first letters are read."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from faithfulness_plugin.benchmarks.readability.config import ReadabilityConfig
from faithfulness_plugin.benchmarks.readability.schema import LayerContext
from faithfulness_plugin.benchmarks.readability.words import (
    SpellingPrompts,
    chosen_words,
    n_to_fit,
    spelling_prompts,
)
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.display import short_repr
from faithfulness_plugin.inspection.sample import Origins
from faithfulness_plugin.language_model.loaded import LoadedModel
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.metrics.readability.context_coherence import random_cosine, unit_contexts
from faithfulness_plugin.metrics.readability.letter_probes import (
    N_LETTERS,
    LetterProbes,
    ProbeQuality,
    letter_probes,
    probe_quality,
)
from faithfulness_plugin.metrics.readability.prediction import Halves
from faithfulness_plugin.store.fill import rows_kept
from faithfulness_plugin.store.kept_rows import kept_rows


@dataclass(frozen=True)
class Spelling:
    """The layer at words, of which the first ones are to fit on and the others to test on."""

    x: Float[Tensor, "words d_in"]
    y: Float[np.ndarray, "words d_out"]
    letters: Int[np.ndarray, " words"]
    n_fit: int

    __repr__ = short_repr

    @cached_property
    def probes(self) -> LetterProbes:
        """Probes fitted on the first words."""
        return letter_probes(self.y[: self.n_fit], self.letters[: self.n_fit])

    @cached_property
    def quality(self) -> ProbeQuality:
        """How they do on the others."""
        return probe_quality(self.probes, self.y[self.n_fit :], self.letters[self.n_fit :])


@dataclass(frozen=True)
class LayerRows:
    """One layer on held-out text."""

    block: int
    x: Float[Tensor, "rows d_in"]
    y: Float[Tensor, "rows d_out"]
    prompts: Int[np.ndarray, " rows"]
    unit: Float[np.ndarray, "rows d"]
    """The residual stream entering the block, centred and of unit norm."""
    halves: Halves
    """For predictions from the tokens around a row: prompts of even and of odd number."""
    spelling: Spelling

    __repr__ = short_repr

    @cached_property
    def record(self) -> LayerContext:
        """What the rows and the words are like."""
        quality = self.spelling.quality
        return LayerContext(
            block=self.block,
            prompts=len(np.unique(self.prompts)),
            rows=len(self.x),
            random_cosine=random_cosine(self.unit, self.prompts),
            words=len(self.spelling.letters),
            probe_accuracy=quality.accuracy,
            probe_chance=quality.chance,
            probe_f1=[None if np.isnan(f1) else float(f1) for f1 in quality.f1],
            test_words=np.bincount(self.spelling.letters[self.spelling.n_fit :], minlength=N_LETTERS).tolist(),
        )


class Source:
    """Loads the model of a real-layers result with prompts that follow those that it used, and words to spell.

    Args:
        trained: the result.
        config: how much text, and how many words.
        note: receives a line about what is being done.

    Raises:
        TrainConfigError: the model cannot be loaded, or the text is too short.
        UsageError: as `chosen_words` and `spelling_prompts`.
    """

    def __init__(self, trained: RealLayersResult, config: ReadabilityConfig, note: Any) -> None:
        settings = trained.config.model_copy(update={"device": "cpu"})
        self.loaded, self.per_pass = LoadedModel(settings, note), settings.prompts_per_pass
        tokenizer = self.loaded.tokenizer
        before = settings.held_out_prompts + settings.stored_prompts
        n = max(2, -(-config.tokens // settings.rows.per_prompt(settings.context_size, tokenizer)))
        self.tokens = self.loaded.prompts(before + n)[before:]
        words = chosen_words(tokenizer, config.words, config.seed)
        limit = min(settings.context_size, self.loaded.hooks.n_positions or settings.context_size)
        self.spelling: SpellingPrompts = spelling_prompts(words, tokenizer, limit, config.examples)

    def layer_rows(self, block: int) -> LayerRows:
        """Run the model on text and words as far as a block.

        Args:
            block: its number.

        Returns:
            What transcoders of its MLP are measured on.
        """
        hooks, layer = self.loaded.hooks, self.loaded.mlps([block])[block]
        self.loaded.note(f"reading {len(self.tokens):,} prompts of text and {len(self.spelling.tokens):,} of words")
        found = kept_rows(hooks, layer, self.tokens, self.loaded.exclude, batch_size=self.per_pass)
        residual = hooks.require(f"blocks.{block}.hook_resid_pre")
        names = {layer.hook_in, layer.hook_out, residual}
        carried = rows_kept(hooks, names, self.tokens, found.mask, self.per_pass)
        origins = Origins.of_kept(self.tokens.cpu(), found.mask.cpu())
        prompts = origins.prompt.numpy()
        places, embeddings = _places(origins, self.loaded.model.W_E.detach().float().cpu())
        return LayerRows(
            block=block,
            x=carried[layer.hook_in].float().cpu(),
            y=carried[layer.hook_out].float().cpu(),
            prompts=prompts,
            unit=unit_contexts(carried[residual].float().cpu().numpy()),
            halves=Halves(places, embeddings, prompts % 2 == 1),
            spelling=self._spelling(layer),
        )

    def _spelling(self, layer: HookedLayer) -> Spelling:
        of = self.spelling
        carried = rows_kept(self.loaded.hooks, {layer.hook_in, layer.hook_out}, of.tokens, of.at_words, self.per_pass)
        letters = np.array([word.letter for word in of.words])
        y = carried[layer.hook_out].double().cpu().numpy()
        return Spelling(carried[layer.hook_in].float().cpu(), y, letters, n_to_fit(of.words))


def _places(
    origins: Origins, W_E: Float[Tensor, "vocabulary d"]
) -> tuple[Int[np.ndarray, "rows 3"], Float[np.ndarray, "tokens d"]]:
    """Number the tokens that occur, and return those at each row and before it with their embeddings, about the mean;
    the last number, of zeros, stands for what is before a prompt."""
    known, numbered = np.unique(origins.tokens.numpy(), return_inverse=True)
    numbered = numbered.reshape(origins.tokens.shape)
    # [prompts, 2 + positions]: two places before each prompt
    padded = np.concatenate([np.full((len(numbered), 2), len(known)), numbered], axis=1)
    row, column = origins.prompt.numpy(), origins.position.numpy()
    places = np.stack([padded[row, column + 2 - back] for back in range(3)], axis=1)
    embeddings = W_E[torch.from_numpy(known)].double().numpy()
    return places, np.concatenate([embeddings - embeddings.mean(0), np.zeros((1, embeddings.shape[1]))])


def probed_words(spelling: Spelling, letter: int) -> Bool[np.ndarray, " words"]:
    """Find the test words that begin with a letter and of which the probe says so.

    Args:
        spelling: the layer at words.
        letter: its number.

    Returns:
        True for these, among the test words.
    """
    y, letters = spelling.y[spelling.n_fit :], spelling.letters[spelling.n_fit :]
    return (letters == letter) & spelling.probes.says(y)[:, letter]
