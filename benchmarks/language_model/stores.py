"""Stores of a language model's layers: made, found again, filled up."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from faithfulness_plugin.adapters.fill import Filling, fill
from faithfulness_plugin.adapters.hooked_layer import HookedLayer, Hooks, told
from faithfulness_plugin.derivatives.store import DerivativeStore


@dataclass(frozen=True)
class Wanted:
    """One store."""

    folder: Path
    layer: HookedLayer
    products: Sequence[Mapping[str, Any]]
    repeated: Int[Tensor, "1 pos"] | None = None
    """A prompt whose rows are put among those of every shard."""
    share: float = 0.0
    """Of the rows, those of the repeated prompt."""


def filled_stores(
    wanted: Sequence[Wanted],
    hooks: Hooks,
    tokens: Int[Tensor, "prompts pos"],
    *,
    model: str,
    width: int,
    exclude: Int[Tensor, " ids"],
    prompts_per_shard: int,
    prompts_per_pass: int,
    dtype: str,
    seed: int,
    on_shard: Callable[[int, int], None],
) -> list[DerivativeStore]:
    """The stores in their folders, made where they are not there, whole and full.

    Args:
        tokens: the prompts to train on.
        model: its title.
        width: of every layer, d_model.
        exclude: token ids whose rows are left out.
        on_shard: called with the number of a shard that was made, and how many there are.

    Raises StoreError for a store that was made from another model, layer or text, keeps other derivatives, is being
    written by somebody else, or cannot be written.
    """
    n_shards = -(-len(tokens) // prompts_per_shard)
    fillings = []
    for of in wanted:
        source = {
            "model": model,
            "layer": told(of.layer, width, hooks.device),
            "text": f"{len(tokens)} prompts of {tokens.shape[1]} tokens ({_digest(tokens)})",
            "tokens left out": f"{sorted(exclude.tolist())}",
        }
        if of.repeated is not None:
            source["repeated"] = f"{of.repeated.shape[1]} tokens ({_digest(of.repeated)}) in {of.share:g} of the rows"
        store = DerivativeStore.create(
            of.folder,
            source=source,
            d_in=width,
            d_out=width,
            products=list(of.products),
            n_shards=n_shards,
            dtype=dtype,
            seed=seed,
        )
        fillings.append(Filling(store, of.layer, of.repeated, of.share))
    fill(
        hooks,
        fillings,
        tokens,
        prompts_per_shard=prompts_per_shard,
        exclude=exclude,
        batch_size=prompts_per_pass,
        on_shard=lambda number: on_shard(number, n_shards),
    )
    return [filling.store for filling in fillings]


def _digest(tokens: Tensor) -> str:
    return hashlib.sha256(tokens.to("cpu", torch.int64).numpy().tobytes()).hexdigest()[:12]
