"""What all sets share: the model, real or with permuted MLPs, its layers, full stores, and held-out rows."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from faithfulness_plugin.attribution.replaced_layers import ReplacedLayers, replaced_layers
from faithfulness_plugin.benchmarks.real_layers.permuted_layer import permuted
from faithfulness_plugin.benchmarks.whole_model.config import SetRun, WholeModelConfig
from faithfulness_plugin.language_model.loaded import LoadedModel, WantedStore
from faithfulness_plugin.language_model.replacement import ReplacementModel
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.metrics.next_token import cross_entropy
from faithfulness_plugin.results.experiment import Running
from faithfulness_plugin.store import DerivativeStore
from faithfulness_plugin.store.fill import rows_kept
from faithfulness_plugin.store.left_out import LeftOut


@dataclass(frozen=True)
class Prompts:
    """The prompts of the text, by what they are for."""

    held_out: Int[Tensor, "held_out pos"]
    truth: Int[Tensor, "truth short"]
    stored: Int[Tensor, "stored pos"]


class ModelBench:
    """The model as it is when this is made, real or permuted.

    Args:
        source: the model, loaded.
        layers: its MLPs by block.
        prompts: those of the text.
        stores: the folder for stores.
        config: the experiment's.
    """

    def __init__(
        self,
        source: LoadedModel,
        layers: Mapping[int, HookedLayer],
        prompts: Prompts,
        stores: Path,
        config: WholeModelConfig,
    ) -> None:
        self.source, self.hooks, self.layers = source, source.hooks, layers
        self.prompts, self.config, self._folder = prompts, config, stores
        self._replaced: ReplacedLayers | None = None

    @cached_property
    def stores(self) -> dict[int, DerivativeStore]:
        """Full stores of rows and weights, one for each layer.

        Raises StoreError as `LoadedModel.filled_stores`.
        """
        config = self.config
        wanted = [
            WantedStore(self._folder / f"block{block}", layer, [], weights=True) for block, layer in self.layers.items()
        ]
        filled = self.source.filled_stores(
            wanted, self.prompts.stored, prompts_per_shard=config.prompts_per_shard, dtype=config.stored_dtype
        )
        return dict(zip(self.layers, filled, strict=True))

    def kept(self, tokens: Int[Tensor, "prompts pos"]) -> Bool[Tensor, "prompts pos"]:
        """Find the tokens at which transcoders stand in their layers' places, which are the same at all layers.

        Args:
            tokens: some prompts.

        Returns:
            True where they do.
        """
        return LeftOut.of(self.source.exclude).places(tokens)

    def rows_of(self, block: int) -> tuple[Float[Tensor, "rows d_in"], Float[Tensor, "rows d_out"]]:
        """Return what a layer reads and writes at the held-out tokens that count.

        Args:
            block: the layer's.

        Returns:
            Its inputs and outputs.
        """
        layer = self.layers[block]
        return self._rows[layer.hook_in], self._rows[layer.hook_out]

    @cached_property
    def _rows(self) -> Mapping[str, Tensor]:
        names = {name for layer in self.layers.values() for name in (layer.hook_in, layer.hook_out)}
        held_out = self.prompts.held_out
        return rows_kept(self.hooks, names, held_out, self.kept(held_out), self.config.prompts_per_pass)

    @cached_property
    def ce_clean(self) -> Float[Tensor, " prompts"]:
        """Nats of each held-out prompt, by the model as it is."""
        batches = self.prompts.held_out.split(self.config.prompts_per_pass)
        with torch.no_grad():
            return torch.cat([cross_entropy(self.hooks.run(tokens, {}), tokens).double().sum(-1) for tokens in batches])

    def replacement(self, transcoders: Mapping[int, Any]) -> ReplacementModel:
        """Put a set into the model.

        Args:
            transcoders: by block.

        Returns:
            The replacement model.
        """
        return ReplacementModel(self.hooks, self.layers, transcoders, self.source.exclude)

    def replaced(self, transcoders: Mapping[int, Any]) -> ReplacedLayers:
        """Put a set in front of attribution; layers are checked once.

        Args:
            transcoders: by block.

        Returns:
            The layers with these transcoders.
        """
        if self._replaced is None:
            self._replaced = replaced_layers(self.hooks, transcoders)
        return replace(self._replaced, transcoders=transcoders)


class Bench:
    """Loads the model and cuts the text into prompts.

    Args:
        config: the experiment's.
        stores: the folder for stores.
        running: how to run this time.

    Raises:
        TrainConfigError: model, blocks or text are not as configured.
    """

    def __init__(self, config: WholeModelConfig, stores: Path, running: Running) -> None:
        self.config, self._stores = config, stores
        self.source = LoadedModel(config, running.note)
        sizes = [config.held_out_prompts, config.truth_prompts, config.stored_prompts]
        held_out, truth, stored = self.source.prompts(sum(sizes)).to(self.source.hooks.device).split(sizes)
        self.prompts = Prompts(held_out, truth[:, : config.truth_tokens], stored)
        self.layers = self.source.mlps(config.blocks)
        self._models: dict[bool, ModelBench] = {}

    @property
    def missing(self) -> list[int]:
        """The model's blocks whose layers stay as they are."""
        return [block for block in range(self.source.model.cfg.n_layers) if block not in self.layers]

    @contextmanager
    def as_it_is(self, run: SetRun) -> Iterator[ModelBench]:
        """Let the model have the MLPs of a run, its own or permuted ones, while the context lasts.

        Args:
            run: says which.

        Yields:
            What is known of that model.
        """
        other = run.arm.control == "permuted model"
        with ExitStack() as stack:
            if other:
                for layer in self.layers.values():
                    stack.enter_context(permuted(layer, self.config.seed))
            if other not in self._models:
                folder = self._stores / "permuted" if other else self._stores
                self._models[other] = ModelBench(self.source, self.layers, self.prompts, folder, self.config)
            yield self._models[other]
