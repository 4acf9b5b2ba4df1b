"""A language model that is loaded, with prompts of the text, its MLPs, and stores of their rows."""

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from faithfulness_plugin.display import line
from faithfulness_plugin.language_model.config import TrainConfigError
from faithfulness_plugin.language_model.document_places import DocumentPlaces
from faithfulness_plugin.language_model.model import load_model, model_title
from faithfulness_plugin.language_model.plan import ALL, say_blocks
from faithfulness_plugin.language_model.text import placed_prompts
from faithfulness_plugin.layers.any_model import hooks_of, mlp_layer
from faithfulness_plugin.layers.check_layer import LayerError
from faithfulness_plugin.layers.hooked_layer import HookedLayer, layer_fingerprint
from faithfulness_plugin.store import DerivativeStore, StoreError
from faithfulness_plugin.store.fill import Filling, fill


@dataclass(frozen=True)
class WantedStore:
    """A store that a run needs."""

    folder: Path
    layer: HookedLayer
    products: Sequence[Mapping[str, Any]]
    """The derivatives that it has to keep, as fields of JacobianMatchingConfig."""
    repeated: Int[Tensor, "1 pos"] | None = None
    """A prompt whose rows are put among those of every shard."""
    share: float = 0.0
    """The share of the rows that is the repeated prompt's."""
    weights: bool = False
    """Whether it keeps the layer's weights, and no derivatives."""


class LoadedModel:
    """Loads a language model, as settings ask for it.

    Args:
        config: settings with `model`, `text`, `rows`, `context_size`, `prompts_per_pass`, `seed` and `device`.
        note: receives a line about what is being done.
        plain: as `load_model`'s.

    Raises:
        TrainConfigError: the model cannot be loaded.
    """

    def __init__(self, config: Any, note: Callable[[str], None], *, plain: bool = False) -> None:
        self.config, self.note, self.title = config, note, model_title(config.model)
        note(f"loading {self.title}")
        self.model = load_model(config.model, config.device, plain=plain)
        self.hooks, self.tokenizer = hooks_of(self.model), self.model.tokenizer
        self.exclude = config.rows.left_out(self.tokenizer)

    def __repr__(self) -> str:
        return line("LoadedModel", {"title": self.title, "model": self.model})

    def prompts(self, n: int, least: int | None = None) -> Int[Tensor, "prompts pos"]:
        """Cut the first prompts of the text.

        Args:
            n: how many.
            least: how many will do, where fewer are enough; None needs n.

        Returns:
            Their tokens.

        Raises:
            TrainConfigError: as `placed_prompts`.
        """
        return self.placed_prompts(n, least)[0]

    def placed_prompts(self, n: int, least: int | None = None) -> tuple[Int[Tensor, "prompts pos"], DocumentPlaces]:
        """Cut the first prompts of the text, and say which documents they are from.

        Args:
            n: how many.
            least: how many will do, where fewer are enough; None needs n.

        Returns:
            Their tokens, and the documents of all tokens.

        Raises:
            TrainConfigError: as `placed_prompts`.
        """
        self.note("cutting the text into prompts")
        c = self.config
        return placed_prompts(c.text, self.tokenizer, c.context_size, c.seed, n, least, self.hooks)

    def mlps(self, blocks: Sequence[int] | str, setting: str = "blocks") -> dict[int, HookedLayer]:
        """Find the MLPs of blocks, and check them.

        Args:
            blocks: their numbers, or "all", which leaves out blocks without an MLP and says which.
            setting: what says the numbers, for messages.

        Returns:
            The MLPs by block.

        Raises:
            TrainConfigError: a block is missing, or has no MLP; with "all", no block has one.
        """
        every, found, without = blocks == ALL, dict[int, HookedLayer](), list[int]()
        for block in range(self.model.cfg.n_layers) if every else blocks:
            try:
                found[int(block)] = mlp_layer(self.model, int(block))
            except ValueError as error:
                if not every or isinstance(error, LayerError):
                    raise TrainConfigError(f"{setting}: {error}") from error
                without.append(int(block))
        if not found:
            raise TrainConfigError(f"{setting}: no block of {self.title} has an MLP that transcoders could replace")
        if without:
            self.note(f"without an MLP, and left out: {say_blocks(without)}")
        return found

    def filled_stores(
        self, wanted: Sequence[WantedStore], tokens: Int[Tensor, "prompts pos"], *, prompts_per_shard: int, dtype: str
    ) -> list[DerivativeStore]:
        """Open stores with the rows of these prompts, after making those that do not exist and missing shards.

        Args:
            wanted: the stores that a run needs.
            tokens: the prompts.
            prompts_per_shard: prompts whose rows a shard holds.
            dtype: of the stored rows and derivatives.

        Returns:
            Full stores, in the order of `wanted`.

        Raises:
            StoreError: a store that was made from another model, layer or text, keeps other derivatives, is being
                written by another process, or cannot be written; a layer whose weights are wanted and not known; a disk
                with too little room.
        """
        self.note("checking the stores of derivatives, and filling what they lack")
        width, n_shards = self.model.cfg.d_model, -(-len(tokens) // prompts_per_shard)
        fillings = []
        for of in wanted:
            store = DerivativeStore.create(
                of.folder,
                source=self._source(of, tokens, prompts_per_shard, width),
                d_in=width,
                d_out=width,
                products=list(of.products),
                n_shards=n_shards,
                dtype=dtype,
                seed=self.config.seed,
                weights=of.weights,
            )
            fillings.append(Filling(store, of.layer, of.repeated, of.share))
        _require_room(fillings, tokens.numel())
        fill(
            self.hooks,
            fillings,
            tokens,
            prompts_per_shard=prompts_per_shard,
            exclude=self.exclude,
            batch_size=self.config.prompts_per_pass,
            on_shard=lambda number: self.note(f"filled shard {number + 1} of {n_shards}"),
        )
        stores = [filling.store for filling in fillings]
        for store in stores:
            if (rounding := store.index.rounding) is not None and max(rounding.x, rounding.y, rounding.Jv) > 0:
                self.note(f"{store.folder} keeps rows in {store.index.dtype}; relative errors: {rounding}")
        return stores

    def _source(self, of: WantedStore, tokens: Tensor, prompts_per_shard: int, width: int) -> dict[str, str]:
        """Describe what a store is made from, by which it is recognised."""
        exclude = self.exclude
        source = {
            "model": self.title,
            "layer": layer_fingerprint(of.layer, width, self.hooks.device),
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
        return source


def _require_room(fillings: Sequence[Filling], n_tokens: int) -> None:
    """Raise StoreError where the disk has less room than the missing shards need."""
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
