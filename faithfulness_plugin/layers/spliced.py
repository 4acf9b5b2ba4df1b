"""A language model with a transcoder in a layer's place, changed at some tokens, and what later layers make of it."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.layers.declared_hooks import block_of
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hook, Hooks, Tokens, read_and_write

Change = Callable[[Tensor], Tensor]
ACTS_POST = "hook_sae_acts_post"
AFTER_A_BLOCK = re.compile(r"blocks\.(\d+)\.hook_resid_post")


def stages_after(hooks: Hooks, layer: HookedLayer) -> list[str]:
    """Name the residual stream after the layer's block and after each one behind it.

    Args:
        hooks: the model's.
        layer: a layer in one of its blocks.

    Returns:
        The names, in the order of the blocks.

    Raises:
        ValueError: a layer that is in no block, or a model without such hooks.
    """
    block, names = block_of(layer.hook_out), set(hooks.names)
    stages = {int(match[1]): name for name in names if (match := AFTER_A_BLOCK.fullmatch(name))}
    if block is not None and not stages:  # a plain model, whose blocks are modules in one list
        try:
            first = hooks.own_name(hooks.require(f"blocks.{block}.hook_resid_post"))
        except ValueError:
            first = ""
        blocks = first.rpartition(".")[0]
        stages = {
            n: f"{blocks}.{n}" for n in itertools.takewhile(lambda n: f"{blocks}.{n}" in names, itertools.count())
        }
    if block is None or block not in stages:
        raise ValueError(f"{layer.hook_out} is in no block whose output the model has a hook for (hook_resid_post)")
    return [stages[number] for number in sorted(stages) if number >= block]


@dataclass(frozen=True)
class Seen:
    """One run of the model."""

    logits: Float[Tensor, "batch *pos vocab"]
    stages: Mapping[str, Float[Tensor, "batch *pos d_model"]]
    acts: Float[Tensor, "batch *pos d_sae"] | None
    """Of the transcoder, if there was one with `hook_sae_acts_post`."""

    __repr__ = short_repr


def run_spliced(
    hooks: Hooks,
    layer: HookedLayer,
    tokens: Tokens,
    kept: Bool[Tensor, "batch *pos"],
    transcoder: Any | None,
    *,
    of_input: Change | None = None,
    of_acts: Change | None = None,
    of_output: Change | None = None,
    stages: Sequence[str] = (),
) -> Seen:
    """Run the model, with the transcoder at the tokens that it was trained for (`kept`), or without.

    Args:
        hooks: the model's.
        layer: the layer in whose place the transcoder stands.
        tokens: what the model is run on.
        kept: the tokens whose rows the transcoder computes; at the others the layer does.
        transcoder: a SAELens transcoder; None for the model as it is.
        of_input: changes the layer's input [batch, pos, d_in], whoever reads it.
        of_acts: changes the transcoder's activations before they are decoded, at its `hook_sae_acts_post`.
        of_output: changes the layer's output, whoever wrote it.
        stages: hooks whose activations are wanted.

    Returns:
        The logits, the activations at `stages`, and the transcoder's own.
    """
    found: dict[str, Tensor] = {}
    written: list[Tensor] = []
    acts: list[Tensor] = []

    def read(x: Tensor) -> Tensor | None:
        changed = x if of_input is None else of_input(x)
        if transcoder is not None:
            hooked = hasattr(transcoder, ACTS_POST)
            written.append(
                transcoder.run_with_hooks(changed, fwd_hooks=[(ACTS_POST, at_acts)]) if hooked else transcoder(changed)
            )
        return None if of_input is None else changed

    def at_acts(a: Tensor, hook: object) -> Tensor | None:
        del hook
        acts.append(a)
        return None if of_acts is None else of_acts(a)

    def write(y: Tensor) -> Tensor | None:
        out = torch.where(kept[..., None], written.pop().to(y.dtype), y) if transcoder is not None else y
        out = out if of_output is None else of_output(out)
        if layer.hook_out in stages:
            found[layer.hook_out] = out
        return out

    def keep(name: str) -> Hook:
        def look(activation: Tensor) -> None:
            found[name] = activation

        return look

    seen_later = {name: keep(name) for name in stages if name != layer.hook_out}
    logits = hooks.run(tokens, read_and_write(layer, read, write) | seen_later)
    return Seen(logits, found, acts[0] if acts else None)
