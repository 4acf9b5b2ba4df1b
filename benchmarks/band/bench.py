"""What all transcoders of a band share: the model, its layers, their rows, and how one is trained and measured."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from faithfulness_plugin import metrics
from faithfulness_plugin.attribution.replaced_layers import replaced_layers
from faithfulness_plugin.attribution.truth import truth_records
from faithfulness_plugin.benchmarks.band.config import KINDS, TERMS, BandConfig, BandRun
from faithfulness_plugin.benchmarks.band.schema import BandRecord
from faithfulness_plugin.benchmarks.whole_model.numbers import behind_the_first, by_kind
from faithfulness_plugin.benchmarks.whole_model.truth_of import TruthOf
from faithfulness_plugin.jacobian.cross_layer_matching import CrossLayerMatching
from faithfulness_plugin.language_model.layer_rows import Rows, to_digits
from faithfulness_plugin.language_model.loaded import LoadedModel
from faithfulness_plugin.language_model.replacement import ReplacementModel
from faithfulness_plugin.layers.layer_chain import LayerChain
from faithfulness_plugin.measure.sets.predictions import predictions
from faithfulness_plugin.metrics.hops_kept import hops_kept
from faithfulness_plugin.store.fill import rows_kept
from faithfulness_plugin.store.left_out import LeftOut
from faithfulness_plugin.training.train import train_transcoder
from faithfulness_plugin.transcoders.cross_layer import CrossLayerTrainingTranscoder
from faithfulness_plugin.transcoders.cross_layer_config import CrossLayerTrainingTranscoderConfig
from faithfulness_plugin.transcoders.layer_views import layer_views
from faithfulness_plugin.transcoders.seeded import made_with_seed
from faithfulness_plugin.transcoders.topk import TopKTrainingTranscoderConfig

CHECKPOINTS = 8
"""How often training is saved."""
DERIVATIVE_ROWS = 64
"""Rows at which derivatives are compared."""


class BandBench:
    """Loads the model, cuts the text into prompts, and reads the band's rows.

    Args:
        config: the experiment's.
        note: receives a line about what is being done.

    Raises:
        TrainConfigError: model, blocks or text are not as configured.
    """

    def __init__(self, config: BandConfig, note: Callable[[str], None]) -> None:
        self.config, self.note = config, note
        self.source = LoadedModel(config, note)
        self.layers = self.source.mlps(config.blocks)
        sizes = [config.held_out_prompts, config.stored_prompts, config.truth_prompts]
        prompts = self.source.prompts(sum(sizes)).to(self.source.hooks.device)
        self.held_out, stored, truth = prompts.split(sizes)
        self.truth_prompts = truth[:, : config.truth_tokens]
        self.chain = LayerChain(list(self.layers.values()))
        note("reading the rows of the band")
        self.rows = self._rows(stored)
        self.rows_held_out = self._rows(self.held_out)

    @torch.no_grad()
    def _rows(self, tokens: Int[Tensor, "prompts pos"]) -> Float[Tensor, "rows width"]:
        """Return what the layers read at the tokens that count, side by side."""
        names = [layer.hook_in for layer in self.layers.values()]
        config = self.config
        found = rows_kept(self.source.hooks, {*names}, tokens, self._kept(tokens), config.prompts_per_pass)
        return torch.cat([found[name] for name in names], dim=-1)

    def _kept(self, tokens: Tensor) -> Tensor:
        return LeftOut.of(self.source.exclude).places(tokens)

    def trained(self, run: BandRun, folder: Path, *, resume: bool) -> CrossLayerTrainingTranscoder:
        """Train a transcoder of the band, from its last checkpoint where there is one.

        Args:
            run: which.
            folder: of its checkpoints.
            resume: whether the checkpoints that are there are this run's.

        Returns:
            The transcoder, in `eval` mode.
        """
        config, n = self.config, len(self.layers)
        d = self.rows.shape[1] // n
        matched = run.term != "none"
        each = TopKTrainingTranscoderConfig(
            d_in=d, d_sae=config.features(run.kind, n), k=config.k, device=config.device, dtype="float32"
        )
        cfg = CrossLayerTrainingTranscoderConfig(
            n_layers=n,
            per_layer=each,
            jacobian={**(TERMS[run.term] or {"own": 1.0}), "seed": run.seed},
            jacobian_coefficient=config.coefficient if matched else 0.0,
            **KINDS[run.kind],
        )
        made: Any = made_with_seed(cfg, run.seed)
        steps = config.n_steps
        found: Any = train_transcoder(
            made,
            self.chain,
            self.rows[torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(run.seed))],
            n_steps=steps,
            batch_size=config.batch_size,
            lr=config.lr,
            lr_decay_steps=int(config.lr_decay_share * steps),
            dead_feature_window=max(1, steps // 8),
            checkpoint=folder,
            checkpoint_every=max(1, steps // CHECKPOINTS),
            resume=resume,
        )
        return found.transcoder

    @property
    def ce_clean(self) -> list[float]:
        """Nats of each held-out prompt, by the model as it is."""
        return self._predicted(None)[0]

    def record(self, run: BandRun, transcoder: CrossLayerTrainingTranscoder, begun: float) -> BandRecord:
        """Measure a transcoder.

        Args:
            run: which.
            transcoder: of the band, in `eval` mode.
            begun: when its training began, by `time.perf_counter`.

        Returns:
            The record.
        """
        seconds = time.perf_counter() - begun
        x, n = self.rows_held_out, len(self.layers)
        prompt = self._kept(self.held_out).nonzero()[:, 0]
        rows = Rows(x, prompt, len(self.held_out))
        with torch.no_grad():
            y, t = self.chain(x).chunk(n, dim=-1), transcoder(x).chunk(n, dim=-1)
        own, crossing = self._derivatives(transcoder, x[:: max(1, len(x) // DERIVATIVE_ROWS)])
        _, replaced = self._predicted(transcoder)
        return BandRecord(
            arm=run.arm,
            seed=run.seed,
            parameters=sum(p.numel() for p in transcoder.parameters() if p.requires_grad),
            l0=metrics.reconstruction(transcoder, self.chain, x).l0,
            error=[rows.by_prompt((a - b).square().sum(-1)) for a, b in zip(t, y, strict=True)],
            variance=[rows.by_prompt((of - of.mean(0)).square().sum(-1)) for of in y],
            hops_kept=list(hops_kept(transcoder, x).by_layer),
            own=own,
            crossing=crossing,
            ce=replaced.ce,
            kl=replaced.kl,
            truth=self._truth(transcoder),
            seconds=seconds,
        )

    @torch.no_grad()
    def _derivatives(
        self, transcoder: CrossLayerTrainingTranscoder, x: Tensor
    ) -> tuple[list[list[float]], list[float]]:
        """Compare partial derivatives along differences of rows."""
        matching = CrossLayerMatching({"probe": "pair", "seed": self.config.seed}, len(self.layers))
        targets, region = matching.targets(self.chain, x), transcoder.region(x)
        own, crossing = [], [0.0] * len(self.layers)
        for source, of in enumerate(targets.layers):
            v, Jv = of.v, of.Jv
            assert v is not None
            assert Jv is not None
            first, *later = region.partial_jvp(source, v, of.along)
            own.append(to_digits([(first - Jv).square().sum().item(), Jv.square().sum().item()]))
            for m, crossed in enumerate(later, source + 1):
                crossing[m] += crossed.square().sum().item()
        return own, to_digits(crossing[1:])

    def _truth(self, transcoder: CrossLayerTrainingTranscoder) -> list[TruthOf]:
        """Compare effects that are predicted with those in the model, all of whose other layers count as error."""
        config, tokens = self.config, self.truth_prompts
        replaced = replaced_layers(self.source.hooks, dict(zip(self.layers, layer_views(transcoder), strict=True)))
        each = truth_records(
            replaced,
            list(tokens.split(1)),
            kept=list(behind_the_first(self._kept(tokens))),
            n_each=config.interventions,
            n_targets=config.targets,
            seed=config.seed,
        )
        return by_kind([record for records in each for record in records])

    def _predicted(self, transcoder: CrossLayerTrainingTranscoder | None) -> tuple[list[float], Any]:
        """Run the model on held-out prompts, as it is and with the band replaced."""
        each = [] if transcoder is None else layer_views(transcoder)
        views: dict[int, Any] = dict(zip(self.layers, each, strict=transcoder is not None))
        model = ReplacementModel(self.source.hooks, self.layers, views, self.source.exclude)
        kept = dict.fromkeys(views, self._kept(self.held_out))
        chosen = [(tuple(views), False)]
        clean, (replaced,) = predictions(model, self.held_out, kept, self.config.prompts_per_pass, chosen)
        return clean, replaced
