"""Everything that the runs share: the model, its MLPs, full stores, held-out prompts."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from faithfulness_plugin.benchmarks.real_layers.config import RealLayersConfig, Run
from faithfulness_plugin.benchmarks.real_layers.layer_init import begin_at_layer, require_neurons
from faithfulness_plugin.benchmarks.real_layers.mean_jacobian import (
    MeanJacobian,
    become_constant,
    begin_at,
    mean_jacobian,
)
from faithfulness_plugin.benchmarks.real_layers.permuted_layer import permuted, weights_of
from faithfulness_plugin.benchmarks.real_layers.schema import FloorOf
from faithfulness_plugin.benchmarks.real_layers.skip_variants import vary_skip
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.language_model.loaded import LoadedModel, WantedStore
from faithfulness_plugin.language_model.train_stored import note_origin
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.measure.held_out import HeldOut
from faithfulness_plugin.metrics.result import Directions
from faithfulness_plugin.results.experiment import Running
from faithfulness_plugin.store import DerivativeStore
from faithfulness_plugin.transcoders.seeded import made_with_seed


class MlpBench:
    """One MLP, real or permuted, with what runs on it share. A permuted one is to be used within `as_it_is`.

    Args:
        layer: the model's.
        store: its rows.
        held_out: measures on held-out prompts.
    """

    def __init__(self, layer: HookedLayer, store: DerivativeStore, held_out: HeldOut) -> None:
        self.layer, self.store, self.held_out = layer, store, held_out

    @cached_property
    def mean(self) -> MeanJacobian:
        """The layer's mean Jacobian over the store's rows."""
        return mean_jacobian(self.store, weights_of(self.layer))

    def floors(self, transcoder: Any) -> dict[FloorOf, dict[Directions, list[float]]]:
        """Compute the floors without a skip connection and with the mean Jacobian as one.

        Args:
            transcoder: gives the numbers of active features.

        Returns:
            Sums by prompt, for each kind of directions.
        """
        measure = self.held_out
        return {
            "no skip": measure.floor(transcoder, measure.energies),
            "mean Jacobian": measure.floor(transcoder, measure.energies_beside(self.mean.matrix)),
        }


class Bench:
    """Loads the model, fills the stores, and makes transcoders as runs want them.

    Args:
        config: the experiment's.
        stores: their folder.
        running: how to run this time.

    Raises:
        TrainConfigError: model, blocks or text are not as configured.
        StoreError: stores of something else, in use, or that cannot be written; layers whose weights are not known.
        UsageError: a dictionary that is too small for the layer's neurons, where an arm begins there.
    """

    def __init__(self, config: RealLayersConfig, stores: Path, running: Running) -> None:
        if config.keep != "rows":
            raise UsageError("keep: derivatives is how version 0.8 trained: choose keep: rows")
        self.config = config
        self.source = source = LoadedModel(config, running.note)
        self.width, self.title = source.model.cfg.d_model, source.title
        tokens = source.prompts(config.held_out_prompts + config.stored_prompts)
        self.tokens, stored = tokens[: config.held_out_prompts], tokens[config.held_out_prompts :]
        self.mlps = source.mlps(config.blocks)
        if any(arm.control == "layer init" for arm in config.arms):
            for layer in self.mlps.values():
                require_neurons(weights_of(layer), min(map(config.features, config.arms)))
        self.passage = self._passage()
        self.stores = self._filled(stores, stored)
        self.rows = [self.layer(block).held_out.at.record() for block in config.blocks]

    def _passage(self) -> Int[Tensor, "1 pos"] | None:
        if (at := self.config.passage) is None:
            return None
        tokenizer = self.source.tokenizer
        ids = tokenizer(at.text, add_special_tokens=False)["input_ids"]
        start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        return torch.tensor([[*start, *ids]])

    def _filled(self, stores: Path, tokens: Int[Tensor, "prompts pos"]) -> dict[tuple[int, bool], DerivativeStore]:
        """Fill a store for each block, and one with the passage where that is repeated."""
        config = self.config
        wanted = {
            (block, False): WantedStore(stores / f"block{block}", layer, [], weights=True)
            for block, layer in self.mlps.items()
        }
        if config.passage is not None:
            for block in config.passage.blocks:
                folder, share = stores / f"block{block}_passage", config.passage.share
                wanted[block, True] = WantedStore(folder, self.mlps[block], [], self.passage, share, True)
        filled = self.source.filled_stores(
            list(wanted.values()), tokens, prompts_per_shard=config.prompts_per_shard, dtype=config.stored_dtype
        )
        return dict(zip(wanted, filled, strict=True))

    @cache  # noqa: B019  as long-lived as the bench
    def layer(self, block: int, which: str = "real") -> MlpBench:
        """Return what runs on one layer share.

        Args:
            block: its number.
            which: "real" or "permuted"; the latter is made and used within `as_it_is`.

        Returns:
            The layer with its store and held-out rows.
        """
        source, config, at = self.source, self.config, self.config.passage
        passage = None if at is None or block not in at.blocks else self.passage
        held_out = HeldOut(source.hooks, self.mlps[block], self.tokens, config, source.exclude, passage)
        held_out.at.outputs  # noqa: B018  of the layer as it is now
        return MlpBench(self.mlps[block], self.stores[block, False], held_out)

    @contextmanager
    def as_it_is(self, run: Run) -> Iterator[MlpBench]:
        """Let the model have the layer of a run: its own, or the permuted one.

        Args:
            run: says which.

        Yields:
            The layer.
        """
        if run.arm.layer == "real":
            yield self.layer(run.block)
            return
        with permuted(self.mlps[run.block], self.config.seed):
            yield self.layer(run.block, "permuted")

    def transcoder(self, run: Run, layer: MlpBench) -> Any:
        """Build the transcoder of a run, untrained.

        Args:
            run: the run.
            layer: its layer, as it is.

        Returns:
            The transcoder; the constant map is complete.
        """
        config, arm = self.config, run.arm
        cfg = arm.config(
            run.kind,
            run.seed,
            d_in=self.width,
            d_out=self.width,
            d_sae=config.features(arm),
            device=config.device,
            jacobian_warm_up_steps=config.term_warm_up(arm),
        )
        transcoder = made_with_seed(cfg, run.seed)
        note_origin(transcoder, self.title, layer.layer, config)
        if arm.control == "constant map":
            become_constant(transcoder, layer.mean)
        elif arm.control == "frozen skip":
            begin_at(transcoder, layer.mean, frozen=True)
        elif arm.control == "layer init":
            begin_at_layer(transcoder, weights_of(layer.layer))
        if arm.vary is not None:
            vary_skip(transcoder, arm.vary, run.seed)
        return transcoder
