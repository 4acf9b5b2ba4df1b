"""Fill stores of derivatives from a language model, with one run of the model for all layers."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hook, Hooks, Reached, Tokens
from faithfulness_plugin.store.left_out import LeftOut
from faithfulness_plugin.store.store import DerivativeStore


@dataclass(frozen=True)
class Filling:
    """One store and what goes into it."""

    store: DerivativeStore
    layer: HookedLayer
    repeated: Int[Tensor, "1 pos"] | None = None
    """A prompt whose rows are put among those of every shard, again and again; None for none."""
    share: float = 0.0
    """The share of a shard's rows that are the repeated prompt's."""

    __repr__ = short_repr


@torch.no_grad()
def fill(
    hooks: Hooks,
    fillings: Sequence[Filling],
    tokens: Int[Tensor, "prompts pos"],
    *,
    prompts_per_shard: int,
    exclude: Tensor | LeftOut | None = None,
    batch_size: int = 8,
    on_shard: Callable[[int], None] = lambda _: None,
) -> None:
    """Make the shards that stores lack: those that were never made, were lost, or are damaged.

    Shard i holds the rows of prompts i * prompts_per_shard and following, the same whenever it is made.

    Args:
        hooks: the model's.
        fillings: the stores, with their layers.
        tokens: as many prompts as the stores have shards of.
        prompts_per_shard: how many prompts' rows make a shard.
        exclude: token ids whose rows are left out, or a `LeftOut`. Its factor of norms is fitted to each layer's rows
            in the first shard.
        batch_size: prompts that the model is run on at a time.
        on_shard: called with the number of every shard that was made, once for all stores.

    Raises:
        UsageError: the prompts make another number of shards than a store has; a share outside [0, 1), or a repeated
            prompt of excluded tokens only; prompts that the model cannot be run on.
        StoreError: another process writes to a store, or it cannot be written.
    """
    hooks.require_tokens(tokens)
    n_shards = -(-len(tokens) // prompts_per_shard)
    for filling in fillings:
        if filling.store.index.n_shards != n_shards:
            raise UsageError(
                f"{len(tokens)} prompts make {n_shards} shards of {prompts_per_shard}, and {filling.store.folder} has "
                f"{filling.store.index.n_shards}: pass the prompts that it was made for"
            )
        if not 0 <= filling.share < 1:
            raise UsageError(f"share={filling.share}: a part of the rows, from 0 to below 1")

    def rows_of(layers: Sequence[HookedLayer], prompts: Tensor) -> Mapping[str, Tensor]:
        return rows_at(hooks, {layer.hook_in for layer in layers}, prompts, exclude, batch_size)

    with ExitStack() as stack:
        for filling in fillings:
            stack.enter_context(filling.store.writing())
        lacking: list[tuple[Filling, set[int], LeftOut, Tensor | None]] = []
        for filling in fillings:
            if not (missing := set(filling.store.missing())):
                continue
            layer, rule, repeated = filling.layer, LeftOut.of(exclude), None
            if rule.norms_above is not None:
                x = rows_of([layer], tokens[:prompts_per_shard])[layer.hook_in]
                rule = rule.fitted(x, layer(x))
            if filling.repeated is not None:
                repeated = _usual(rule, layer, rows_of([layer], filling.repeated))
                if not len(repeated):
                    raise UsageError("all tokens of the repeated prompt are excluded: choose another prompt")
            lacking.append((filling, missing, rule, repeated))
        for number in sorted(set[int]().union(*(missing for _, missing, _, _ in lacking))):
            prompts = tokens[number * prompts_per_shard : (number + 1) * prompts_per_shard]
            rows = rows_of([filling.layer for filling, _, _, _ in lacking], prompts)
            for filling, missing, rule, repeated in lacking:
                if number in missing:
                    x = _usual(rule, filling.layer, rows)
                    if repeated is not None:
                        n = round(len(x) * filling.share / (1 - filling.share))
                        x = torch.cat([x, repeated.repeat(-(-n // len(repeated)), 1)[:n]])
                    filling.store.fill_shard(number, x, filling.layer)
            on_shard(number)


def rows_at(
    hooks: Hooks, names: set[str], tokens: Tokens, exclude: Tensor | LeftOut | None, batch_size: int = 8
) -> Mapping[str, Float[Tensor, "rows d"]]:
    """Return what some hooks carry, without excluded tokens and positions; the model is stopped at the last of them.

    Norms are not looked at, as they take a layer: see `kept_rows`.

    Args:
        hooks: the model's.
        names: the hooks.
        tokens: [prompts, pos], or the pictures or the sound that the model reads, of which all rows are kept.
        exclude: token ids, or a `LeftOut`; None leaves nothing out.
        batch_size: prompts that the model is run on at a time.

    Returns:
        The rows by hook, prompt after prompt.

    Raises:
        UsageError: a run of the model does not pass a hook, or what it carries there is not one row a token.
    """
    mask = None if tokens.is_floating_point() else LeftOut.of(exclude).places(tokens)
    return rows_kept(hooks, names, tokens, mask, batch_size)


def rows_kept(
    hooks: Hooks,
    names: set[str],
    tokens: Tokens,
    mask: Bool[Tensor, "prompts pos"] | None,
    batch_size: int = 8,
) -> Mapping[str, Float[Tensor, "rows d"]]:
    """Return what some hooks carry at the tokens where the mask is True; the model is stopped at the last of them.

    Args:
        hooks: the model's.
        names: the hooks.
        tokens: the prompts, or whatever the model reads.
        mask: which tokens count; None for all.
        batch_size: prompts that the model is run on at a time.

    Returns:
        The rows by hook, prompt after prompt.

    Raises:
        UsageError: as `rows_at`.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    batches = tokens.to(hooks.device).split(batch_size)
    masks = [None] * len(batches) if mask is None else mask.to(hooks.device).split(batch_size)
    for prompts, kept in zip(batches, masks, strict=True):
        left = set(names)
        hooks.visit(prompts, {name: _read(name, found[name], kept, left) for name in names})
        if left:
            raise UsageError(f"a run of the model does not pass {min(left)}: choose hooks of the same forward pass")
    return {name: torch.cat(rows) for name, rows in found.items()}


def _usual(rule: LeftOut, layer: HookedLayer, rows: Mapping[str, Tensor]) -> Float[Tensor, "rows d_in"]:
    """Return a layer's rows without those of extreme norm."""
    x = rows[layer.hook_in]
    return x if rule.norms_above is None else x[rule.within(x, layer(x))]


def _read(name: str, rows: list[Tensor], kept: Bool[Tensor, "batch pos"] | None, left: set[str]) -> Hook:
    def read(activation: Tensor) -> None:
        if kept is not None and activation.shape[:2] != kept.shape:
            raise UsageError(
                f"{name} carries {list(activation.shape)} for tokens {list(kept.shape)}, not one row a token: pass "
                "what the model reads there in their place, or choose another hook"
            )
        rows.append(activation.flatten(0, -2) if kept is None else activation[kept])
        left.discard(name)
        if not left:
            raise Reached

    return read
