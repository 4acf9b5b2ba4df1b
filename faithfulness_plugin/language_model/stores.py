"""Stores of a language model's layers: made, found again, filled up."""

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from faithfulness_plugin.layers.hooked_layer import HookedLayer, layer_fingerprint
from faithfulness_plugin.layers.hooks import Hooks
from faithfulness_plugin.store import DerivativeStore, StoreError
from faithfulness_plugin.store.fill import Filling, fill
from faithfulness_plugin.store.left_out import LeftOut


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
    exclude: LeftOut,
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
        exclude: which rows are left out.
        on_shard: called with the number of a shard that was made, and how many there are.

    Raises StoreError for a store that was made from another model, layer or text, keeps other derivatives, is being
    written by somebody else, or cannot be written.
    """
    n_shards = -(-len(tokens) // prompts_per_shard)
    fillings = []
    for of in wanted:
        source = {
            "model": model,
            "layer": layer_fingerprint(of.layer, width, hooks.device),
            "text": f"{len(tokens)} prompts of {tokens.shape[1]} tokens ({_digest(tokens)})",
            "tokens left out": f"{sorted(exclude.token_ids)}",
            "prompts a shard": f"{prompts_per_shard}",
        }
        if exclude.skip_first:
            source["positions left out"] = f"the first {exclude.skip_first}"
        if exclude.norms_above is not None:
            source["norms left out"] = f"above {exclude.norms_above:g} times the median"
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
    _require_room(fillings, tokens.numel())
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


def _require_room(fillings: Sequence[Filling], n_tokens: int) -> None:
    """Raises StoreError where the disk has less room than the shards that are missing need."""
    needed = 0.0
    for filling in fillings:
        index = filling.store.index
        left = 1 - len(index.shards) / index.n_shards
        needed += left * n_tokens / (1 - filling.share) * index.row_bytes
    folder = fillings[0].store.folder
    if (free := shutil.disk_usage(folder).free) < needed:
        raise StoreError(
            f"the stores need {needed / 1e9:.1f} GB more and {folder} has {free / 1e9:.1f} GB free: make room, choose "
            "another --stores, or store less text"
        )


def _digest(tokens: Tensor) -> str:
    return hashlib.sha256(tokens.to("cpu", torch.int64).numpy().tobytes()).hexdigest()[:12]
