"""What transcoders are looked at on: a language model's layer on text, the toy's, or anybody's on rows of a file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from faithfulness_plugin.inspection.sample import MEMORY, RowSample, row_sample
from faithfulness_plugin.inspection.text import text_sample
from faithfulness_plugin.inspection.token_text import TokenText
from faithfulness_plugin.language_model.config import ModelSource, TextSource
from faithfulness_plugin.language_model.model import load_model, model_title
from faithfulness_plugin.language_model.rows import EVERY_ROW, RowSettings
from faithfulness_plugin.language_model.text import cut_prompts
from faithfulness_plugin.layers.any_model import hooks_of
from faithfulness_plugin.layers.declared_hooks import declared_hooks
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.layers.replaced_layer import NamesNoLayer, layer_at_pair, pair_of
from faithfulness_plugin.measure.ranked_pairs import mismatch_warning
from faithfulness_plugin.messages import one_line
from faithfulness_plugin.metrics.circuit_projection import Circuit
from faithfulness_plugin.results.imported import imported
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.toy.abs_network import AbsNetwork
from faithfulness_plugin.toy.circuits import abs_circuits, datapoint_circuit
from faithfulness_plugin.toy.inputs import AbsInputs

FEW = 4
"""Prompts on which the tensors of the block are compared."""


class SubjectError(ValueError):
    """A layer or rows that cannot be had; the message says what to do."""


@dataclass(frozen=True)
class Subject:
    """A layer and a sample of it."""

    layer: Layer
    sample: RowSample
    name: str
    circuits: Sequence[Circuit] = ()
    kinks: bool = False
    notices: Sequence[str] = ()
    """On the tensors that are looked at, where they look wrong."""
    token_text: Callable[[int], str] | None = field(default=None, repr=False)


def toy_subject(
    d_in: int, *, density: float, repeat_frac: float, n_ones: int, n_rows: int, seed: int, memory: float = MEMORY
) -> Subject:
    """y = |x| on rows drawn as its transcoders are trained on, of another seed."""
    inputs = AbsInputs(d_in, density, repeat_frac, n_ones, n_rows, derived_seed(seed, "rows to look at"))
    layer, circuits = AbsNetwork(d_in), abs_circuits(d_in)
    if repeat_frac:
        circuits.append(datapoint_circuit(inputs.point))
    return Subject(layer, row_sample(layer, next(inputs), memory=memory, seed=seed), "|x|", circuits, kinks=True)


def bare_subject(reference: str, rows: Path, *, n_rows: int, seed: int, memory: float = MEMORY) -> Subject:
    """A layer of anybody's (module:name), on rows [n, d_in] of a .npy file. Raises SubjectError."""
    try:
        layer = imported(reference)
    except ValueError as error:
        raise SubjectError(f"--layer {error}") from error
    try:
        x = torch.from_numpy(np.load(rows, allow_pickle=False)[:n_rows]).float()
    except (OSError, TypeError, ValueError) as error:
        raise SubjectError(f"--rows {rows} cannot be read ({one_line(error)}): give [n, d_in] as .npy") from error
    circuits = layer.circuits() if hasattr(layer, "circuits") else ()
    return Subject(layer, row_sample(layer, x, memory=memory, seed=seed), reference, circuits)


def text_subject(
    model_source: ModelSource,
    text: TextSource,
    transcoders: Sequence[Any],
    *,
    model_named: str | None = None,
    block: int | None,
    hook_in: str | None = None,
    hook_out: str | None = None,
    hooks_anyway: bool = False,
    n_tokens: int,
    context_size: int,
    seed: int,
    device: str,
    memory: float = MEMORY,
    rows: RowSettings = EVERY_ROW,
    more: Callable[[Any], Tensor] | None = None,
    note: Callable[[str], None] = lambda _: None,
    on_prompts: Callable[[int], None] = lambda _: None,
) -> Subject:
    """A layer of a language model, on about so many tokens of text.

    Args:
        model_named: by the transcoders' metadata, where another model is looked at on purpose.
        rows: which of them count.
        more: from the tokenizer, prompts [n, context_size] to be read as well.

    Raises SubjectError for a layer that there is not, TrainConfigError for a model or a text that cannot be had, or for
    prompts that do not fit the model.
    """
    note(f"loading {model_title(model_source)}")
    model = load_model(model_source, device, plain=True)
    hooks = hooks_of(model)
    autoencoder = any(declared_hooks(transcoder).autoencoder for transcoder in transcoders)
    try:
        pair = pair_of(hooks, transcoders, layer=block, hook_in=hook_in, hook_out=hook_out, anyway=hooks_anyway)
        layer = layer_at_pair(hooks, pair, autoencoder=autoencoder)
    except NamesNoLayer as error:
        raise SubjectError(f"{error}: pass --layer, the number of a block, or --hook-in and --hook-out") from error
    except ValueError as error:
        raise SubjectError(str(error)) from error
    note("cutting the text into prompts")
    wanted = -(-n_tokens // rows.per_prompt(context_size, model.tokenizer))
    tokens = cut_prompts(text, model.tokenizer, context_size, seed, wanted, least=1, hooks=hooks)
    if more is not None:
        tokens = torch.cat([tokens, more(model.tokenizer)])
    note(f"reading {len(tokens):,} prompts at {layer.hook_in} and {layer.hook_out}")
    exclude = rows.left_out(model.tokenizer)
    sample = text_sample(hooks, layer, tokens, exclude=exclude, memory=memory, seed=seed, on_prompts=on_prompts)
    title = model_title(model_source) + ("" if model_named is None else f" (the transcoder names {model_named})")
    name = f"{title}, {layer.hook_in} to {layer.hook_out}"
    if pair.declared is not None:
        name += f" (the transcoder says {' to '.join(pair.declared)})"
    assert sample.origins is not None
    kept = sample.origins.row_at[:FEW] >= 0
    warnings = [mismatch_warning(hooks, t, tokens[:FEW].to(hooks.device), layer, kept) for t in transcoders]
    notices = [warning for warning in dict.fromkeys(warnings) if warning is not None]
    name += "".join(f". Warning: {notice}" for notice in notices)
    return Subject(layer, sample, name, notices=notices, token_text=TokenText(model.tokenizer))
