"""The layer and the rows that transcoders are inspected on: a language model's on text, the toy's, or a user's own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.inspection.feature_interventions import change_features, top_features
from faithfulness_plugin.inspection.inspection import Inspection, inspect_transcoder
from faithfulness_plugin.inspection.layer_vocabulary import LayerVocabulary, layer_vocabulary
from faithfulness_plugin.inspection.passes import Passes, counted
from faithfulness_plugin.inspection.sample import MEMORY, RowSample, row_sample
from faithfulness_plugin.inspection.text import text_sample
from faithfulness_plugin.inspection.token_text import TokenText
from faithfulness_plugin.language_model.loaded import LoadedModel
from faithfulness_plugin.language_model.widths import require_widths
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.layers.hooked_layer import HookedLayer, layer_fingerprint
from faithfulness_plugin.layers.hooks import Hooks
from faithfulness_plugin.layers.replaced_layer import layer_and_pair
from faithfulness_plugin.measure.ranked_pairs import mismatch_warning
from faithfulness_plugin.messages import one_line
from faithfulness_plugin.metrics.circuit_projection import Circuit
from faithfulness_plugin.results.imported import import_object
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.toy.abs_network import AbsNetwork
from faithfulness_plugin.toy.circuits import abs_circuits, datapoint_circuit
from faithfulness_plugin.toy.inputs import AbsInputs

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE


@dataclass(frozen=True)
class Subject:
    """A layer and a sample of it."""

    layer: Layer
    sample: RowSample
    name: str
    circuits: Sequence[Circuit] = ()
    kinks: bool = False
    notices: Sequence[str] = ()
    """Warnings about tensors that look wrong."""
    token_text: Callable[[int], str] | None = field(default=None, repr=False)
    vocabulary: LayerVocabulary | None = None
    """The model's tokens at this layer; None for layers without a model, or without an unembedding that fits."""
    hooks: Hooks | None = field(default=None, repr=False)
    """The model's; None for layers without one."""

    __repr__ = short_repr

    def inspect(self, transcoder: "SAE[Any]", *, name: str, passes: Passes | None = None) -> Inspection:
        """Inspect a transcoder of this layer.

        Args:
            transcoder: the one to inspect.
            name: what the page calls it.
            passes: as in `inspect_transcoder`.

        Returns:
            As `inspect_transcoder`.
        """
        return inspect_transcoder(
            transcoder,
            self.layer,
            self.sample,
            name=name,
            layer_name=self.name,
            vocabulary=self.vocabulary,
            token_text=self.token_text,
            circuits=self.circuits,
            kinks=self.kinks,
            passes=passes,
        )

    def change(
        self, of: Inspection, features: Sequence[int] | None, on_feature: Callable[[], None] = lambda: None
    ) -> Inspection:
        """Remove and double features of an inspected transcoder, as `change_features`.

        Args:
            of: what was inspected of this layer, on this sample.
            features: which; None for the first 20 of the page's table.
            on_feature: called after each.

        Returns:
            The inspection, with what happened.

        Raises:
            UsageError: a layer without a model; as `change_features`.
        """
        if self.hooks is None or not isinstance(self.layer, HookedLayer):
            raise UsageError(
                f"{self.name} is in no language model, where features could be changed: leave interventions out"
            )
        chosen = top_features(of.records) if features is None else features
        found = change_features(
            self.hooks, self.layer, of.transcoder, self.sample, of.records, chosen, on_feature=on_feature
        )
        return replace(of, interventions=found)


def toy_subject(
    d_in: int, *, density: float, repeat_frac: float, n_ones: int, n_rows: int, seed: int, memory: float = MEMORY
) -> Subject:
    """Sample y = |x| on rows drawn as its transcoders are trained on, with another seed.

    Args:
        d_in: the layer's width.
        density: probability that a coordinate is not 0.
        repeat_frac: probability that a row is the repeated point.
        n_ones: ones in the repeated point.
        n_rows: rows to draw.
        seed: decides the rows.
        memory: GiB that looking at the sample may take, about.

    Returns:
        The layer, its sample and its circuits.
    """
    inputs = AbsInputs(d_in, density, repeat_frac, n_ones, n_rows, derived_seed(seed, "rows to look at"))
    layer, circuits = AbsNetwork(d_in), abs_circuits(d_in)
    if repeat_frac:
        circuits.append(datapoint_circuit(inputs.point))
    return Subject(layer, row_sample(layer, next(inputs), memory=memory, seed=seed), "|x|", circuits, kinks=True)


def bare_subject(reference: str, rows: Path, *, n_rows: int, seed: int, memory: float = MEMORY) -> Subject:
    """Sample a user's own layer on rows of a .npy file.

    Args:
        reference: the layer, as module:name.
        rows: the file, with an array [n, d_in].
        n_rows: the largest number of rows to read.
        seed: decides the sketches by which near-duplicates are found.
        memory: GiB that looking at the sample may take, about.

    Returns:
        The layer and its sample, with circuits where the layer has a method `circuits`.

    Raises:
        UsageError: the layer cannot be imported, or the file cannot be read.
    """
    try:
        layer = import_object(reference)
    except ValueError as error:
        raise UsageError(f"--layer {error}") from error
    try:
        x = torch.from_numpy(np.load(rows, allow_pickle=False)[:n_rows]).float()
    except (OSError, TypeError, ValueError) as error:
        raise UsageError(f"--rows {rows} cannot be read ({one_line(error)}): give [n, d_in] as .npy") from error
    circuits = layer.circuits() if hasattr(layer, "circuits") else ()
    return Subject(layer, row_sample(layer, x, memory=memory, seed=seed), reference, circuits)


def text_subject(
    source: LoadedModel,
    transcoders: "Sequence[SAE[Any]]" = (),
    *,
    model_named: str | None = None,
    block: int | None = None,
    hook_in: str | None = None,
    hook_out: str | None = None,
    hooks_anyway: bool = False,
    n_tokens: int,
    memory: float = MEMORY,
    more: Callable[[Any], Tensor] | None = None,
    passes: Passes | None = None,
) -> Subject:
    """Sample the layer of a language model that the transcoders replace, on about `n_tokens` tokens of text.

    Args:
        source: the model, with its text.
        transcoders: decide the layer by their metadata.
        model_named: the model of the transcoders' metadata, where another one is used on purpose.
        block: which block's MLP, where the metadata do not say it (see `pair_of`).
        hook_in: the tensor that is read, likewise.
        hook_out: the tensor that is written, likewise.
        hooks_anyway: whether hook_in and hook_out may contradict the metadata.
        n_tokens: tokens to look at.
        memory: GiB that looking at the sample may take, about.
        more: makes further prompts [n, context_size] from the tokenizer.
        passes: as in `inspect_transcoder`; its part "rows" is the model's.

    Returns:
        The layer, its sample, and warnings about its tensors.

    Raises:
        UsageError: there is no such layer or text, or prompts do not fit the model.
    """
    hooks, config = source.hooks, source.config
    layer, pair = layer_and_pair(
        hooks, transcoders, block=block, hook_in=hook_in, hook_out=hook_out, anyway=hooks_anyway
    )
    d_in, _ = require_widths(hooks, layer, {_numbered(n, transcoders): t for n, t in enumerate(transcoders)})
    n_prompts = -(-n_tokens // config.rows.per_prompt(config.context_size, source.tokenizer))
    tokens, documents = source.placed_prompts(n_prompts, least=1)
    if more is not None:
        tokens = torch.cat([tokens, more(source.tokenizer)])
    source.note(f"reading {len(tokens):,} prompts at {layer.hook_in} and {layer.hook_out}")
    passes = passes or Passes()
    key = passes.key(
        source.title, layer_fingerprint(layer, d_in, hooks.device), tokens, repr(source.exclude),
        f"{memory} {config.seed}",
    )  # fmt: skip
    sample = passes.run(
        "rows",
        key,
        lambda done: text_sample(
            hooks, layer, tokens, exclude=source.exclude, memory=memory, seed=config.seed,
            on_prompts=counted(done, len(tokens)),
        ),
    )  # fmt: skip
    assert sample.origins is not None
    origins = replace(sample.origins, documents=documents)
    sample, kept = replace(sample, origins=origins), origins.row_at >= 0
    warnings = [mismatch_warning(hooks, t, tokens.to(hooks.device), layer, kept) for t in transcoders]
    notices = [warning for warning in dict.fromkeys(warnings) if warning is not None]
    name = source.title + (f" (the transcoder names {model_named})" if model_named else "")
    name += f", {layer.hook_in} to {layer.hook_out}"
    name += f" (the transcoder says {' to '.join(pair.declared)})" if pair.declared else ""
    name += "".join(f". Warning: {notice}" for notice in notices)
    texts, vocabulary = TokenText(source.tokenizer), layer_vocabulary(hooks, layer)
    return Subject(layer, sample, name, notices=notices, token_text=texts, vocabulary=vocabulary, hooks=hooks)


def _numbered(n: int, of: Sequence[Any]) -> str:
    return "the transcoder" if len(of) == 1 else f"transcoder {n + 1}"
