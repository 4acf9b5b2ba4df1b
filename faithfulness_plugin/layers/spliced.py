"""A language model with transcoders in layers' places, changed at some tokens, and what later layers make of it."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.layers.declared_hooks import block_of
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hook, Hooks, Reached, Tokens
from faithfulness_plugin.layers.read_and_write import read_and_write

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
class Site:
    """A layer of a run, and what happens there."""

    layer: HookedLayer
    kept: Bool[Tensor, "batch *pos"]
    """The tokens whose rows the transcoder computes; at the others the layer does."""
    transcoder: Any | None = None
    """A SAELens transcoder in the layer's place; None for the layer itself."""
    error: Float[Tensor, "batch *pos d_out"] | None = None
    """An error node: is added to what the transcoder writes."""
    of_input: Change | None = None
    """Changes the layer's input [batch, pos, d_in], whoever reads it."""
    of_acts: Change | None = None
    """Changes the transcoder's activations before they are decoded, at its `hook_sae_acts_post`."""
    of_output: Change | None = None
    """Changes the layer's output, whoever wrote it."""

    __repr__ = short_repr

    def hooks(self, acts: list[Tensor]) -> dict[str, Hook]:
        """Return the hooks that make it happen in one run.

        Args:
            acts: receives the transcoder's activations.

        Returns:
            Hooks by name.
        """
        written: list[Tensor] = []

        def at_acts(a: Tensor, hook: object) -> Tensor | None:
            del hook
            acts.append(a)
            return None if self.of_acts is None else self.of_acts(a)

        def read(x: Tensor) -> Tensor | None:
            changed = x if self.of_input is None else self.of_input(x)
            if self.transcoder is not None:
                hooked = hasattr(self.transcoder, ACTS_POST)
                out = self.transcoder.run_with_hooks(changed, fwd_hooks=[(ACTS_POST, at_acts)]) if hooked else None
                written.append(self.transcoder(changed) if out is None else out)
            return None if self.of_input is None else changed

        def write(y: Tensor) -> Tensor | None:
            out = y
            if self.transcoder is not None:
                t = written.pop()
                out = torch.where(self.kept[..., None], (t if self.error is None else t + self.error).to(y.dtype), y)
            return out if self.of_output is None else self.of_output(out)

        return read_and_write(self.layer, read, write)


@dataclass(frozen=True)
class Seen:
    """One run of the model."""

    logits: Float[Tensor, "batch *asked vocab"]
    """At every position, or at the last ones that were asked for."""
    stages: Mapping[str, Float[Tensor, "batch *pos d_model"]]
    acts: Float[Tensor, "batch *pos d_sae"] | None
    """Of the only transcoder, if there was one with `hook_sae_acts_post`."""

    __repr__ = short_repr


def run_replaced(
    hooks: Hooks, tokens: Tokens, sites: Sequence[Site], *, stages: Sequence[str] = (), last: int | None = None
) -> Seen:
    """Run the model with any set of its layers replaced or changed.

    Args:
        hooks: the model's.
        tokens: what the model is run on.
        sites: the layers, in the order in which a run passes them.
        stages: hooks whose activations are wanted, as later layers see them.
        last: the number of positions at the end whose logits are wanted; None for all.

    Returns:
        The logits, the activations at `stages`, and those of the transcoder where there is one.
    """
    found, acts = dict[str, Tensor](), list[Tensor]()
    looks = {name: _keep(name, found) for name in stages}
    logits = hooks.run(tokens, _chained([*(site.hooks(acts) for site in sites), looks]), last)
    return Seen(logits, found, acts[0] if len(acts) == 1 else None)


def stages_replaced(
    hooks: Hooks, tokens: Tokens, sites: Sequence[Site], stages: Sequence[str]
) -> dict[str, Float[Tensor, "batch *pos d_model"]]:
    """Run the model as `run_replaced`, and end at the last stage: no logits are computed.

    Args:
        hooks: the model's.
        tokens: what the model is run on.
        sites: the layers, in the order in which a run passes them.
        stages: hooks whose activations are wanted.

    Returns:
        The activations by hook.
    """
    found, acts = dict[str, Tensor](), list[Tensor]()
    looks = {name: _keep(name, found, end_at=len(set(stages))) for name in stages}
    hooks.visit(tokens, _chained([*(site.hooks(acts) for site in sites), looks]))
    return found


def _keep(name: str, found: dict[str, Tensor], end_at: int | None = None) -> Hook:
    def look(activation: Tensor) -> None:
        found[name] = activation
        if len(found) == end_at:
            raise Reached

    return look


def with_errors(hooks: Hooks, tokens: Tokens, sites: Sequence[Site]) -> list[Site]:
    """Give every transcoder the error node with which it writes what its layer writes in the model as it is.

    Args:
        hooks: the model's.
        tokens: what the model is run on.
        sites: the layers with their transcoders.

    Returns:
        The sites with e = f(x) - t(x) at the tokens that count, x the layer's input in the model. As long as the inputs
        are these, a run with them is the model's own.
    """
    errors: dict[int, Tensor] = {}

    def at(place: int, site: Site) -> dict[str, Hook]:
        written: list[Tensor] = []

        def read(x: Tensor) -> None:
            assert site.transcoder is not None
            written.append(site.transcoder(x))

        def write(y: Tensor) -> None:
            # [batch, pos, d_out], 0 where the layer writes itself
            errors[place] = torch.where(site.kept[..., None], y - written.pop().to(y.dtype), 0)
            if len(errors) == len(sites):
                raise Reached

        return read_and_write(site.layer, read, write)

    hooks.visit(tokens, _chained([at(place, site) for place, site in enumerate(sites)]))
    return [replace(site, error=errors[place]) for place, site in enumerate(sites)]


def _chained(each: Sequence[Mapping[str, Hook]]) -> dict[str, Hook]:
    """Join hooks: of several at one tensor, each sees what those before it have made."""
    by_name: dict[str, list[Hook]] = {}
    for of in each:
        for name, hook in of.items():
            by_name.setdefault(name, []).append(hook)

    def joined(several: list[Hook]) -> Hook:
        def run(activation: Tensor) -> Tensor:
            for hook in several:
                changed = hook(activation)
                activation = activation if changed is None else changed
            return activation

        return run

    return {name: several[0] if len(several) == 1 else joined(several) for name, several in by_name.items()}


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
    last: int | None = None,
) -> Seen:
    """Run the model with one layer replaced or changed: see `Site`.

    Args:
        hooks: the model's.
        layer: the layer in whose place the transcoder stands.
        tokens: what the model is run on.
        kept: the tokens whose rows the transcoder computes.
        transcoder: a SAELens transcoder; None for the model as it is.
        of_input: changes the layer's input.
        of_acts: changes the transcoder's activations.
        of_output: changes the layer's output.
        stages: hooks whose activations are wanted.
        last: the number of positions at the end whose logits are wanted; None for all.

    Returns:
        The logits, the activations at `stages`, and the transcoder's own.
    """
    site = Site(layer, kept, transcoder, of_input=of_input, of_acts=of_acts, of_output=of_output)
    return run_replaced(hooks, tokens, [site], stages=stages, last=last)
