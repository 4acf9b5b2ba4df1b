"""All runs: stores filled once, then transcoder after transcoder, each written as it ends."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from faithfulness_plugin.benchmarks.real_layers.config import RealLayersConfig, Run
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult, Trained
from faithfulness_plugin.language_model.model import load_model, mlp_layers, model_title
from faithfulness_plugin.language_model.stores import Wanted, filled_stores
from faithfulness_plugin.language_model.text import cut_prompts
from faithfulness_plugin.language_model.train_stored import note_origin
from faithfulness_plugin.layers.any_model import hooks_of
from faithfulness_plugin.measure.held_out import HeldOut
from faithfulness_plugin.results.result_file import RESULT_FILENAME, begin_or_go_on, require_versions
from faithfulness_plugin.results.schema import Environment, read_result, write_text
from faithfulness_plugin.store import DerivativeStore, StoredRows
from faithfulness_plugin.training import latest_checkpoint, train_transcoder
from faithfulness_plugin.transcoders.seeded import made_with_seed

CHECKPOINTS, TRANSCODERS = "checkpoints", "transcoders"
CHECKPOINT_EVERY = 500  # steps


def open_result(out: Path, config: RealLayersConfig, *, overwrite: bool) -> RealLayersResult:
    """The result that stands in `out`, or a fresh one, not written yet. One that has fewer seeds, and all else alike,
    goes on with more. Raises ResultError as `begin_or_go_on`."""
    environment = Environment.here(config.device)
    fresh = RealLayersResult(complete=False, environment=environment, model=model_title(config.model), config=config)
    path = out / RESULT_FILENAME
    if path.exists() and not overwrite:
        there = read_result(path, RealLayersResult)
        if there.config.seeds < config.seeds:
            fewer = config.model_copy(update={"seeds": there.config.seeds})
            fresh = fresh.model_copy(update={"config": fewer})
            result = begin_or_go_on(out, fresh, overwrite=False, write=False)
            require_versions(path, result, fresh)
            return result.model_copy(update={"config": config, "complete": False})
    return begin_or_go_on(out, fresh, overwrite=overwrite, write=False)


def complete(
    result: RealLayersResult,
    out: Path,
    stores: Path,
    *,
    note: Callable[[str], None],
    on_run: Callable[[Trained, RealLayersResult], None] = lambda trained, result: None,
    begin_anew: bool = False,
) -> RealLayersResult:
    """Makes the runs that are missing; after each the file in `out` holds all that are done, and the transcoder is in
    `out`/transcoders. A run that was interrupted goes on from its last checkpoint.

    Args:
        stores: folder for the stores of derivatives, which are filled first.
        note: is told what is going on.
        begin_anew: over whatever stands in `out`, once the model, the text and the stores are at hand.

    Raises:
        TrainConfigError: model, blocks or text are not to be had as configured.
        StoreError: stores of something else, in use, or that cannot be written.
    """
    done = {trained.run for trained in result.trained}
    missing = [run for run in result.config.runs() if run not in done]
    if not missing:
        return result
    bench = _Bench(result, stores, note)
    result = result.model_copy(update={"rows": result.rows or bench.rows})
    if begin_anew:
        for folder in (out / CHECKPOINTS, out / TRANSCODERS):
            shutil.rmtree(folder, ignore_errors=True)  # of the result that is replaced
    write_text(out / RESULT_FILENAME, result.model_dump_json(indent=1))
    for run in missing:
        note(f"training: {run.name}")
        checkpoint = out / CHECKPOINTS / run.folder
        transcoder, seconds = bench.train(run, checkpoint)
        held_out = bench.held_out[run.block]
        if all(layer.block != run.block for layer in result.layers):
            result = result.model_copy(update={"layers": [*result.layers, held_out.record(transcoder)]})
        trained = Trained(**run._asdict(), **dict(held_out.measure(transcoder)), seconds=seconds)
        transcoder.save_inference_model(out / TRANSCODERS / run.folder)
        update = {"trained": [*result.trained, trained], "complete": run is missing[-1]}
        result = result.model_copy(update=update)
        write_text(out / RESULT_FILENAME, result.model_dump_json(indent=1))
        shutil.rmtree(checkpoint)
        on_run(trained, result)
    return result


class _Bench:
    """Everything that the runs share: the model, its layers, full stores, held-out prompts."""

    def __init__(self, result: RealLayersResult, folder: Path, note: Callable[[str], None]) -> None:
        self.config, self.model_title = result.config, result.model
        config = result.config
        note(f"loading {result.model}")
        model = load_model(config.model, config.device)
        self.width = model.cfg.d_model
        note("cutting the text into prompts")
        n_prompts = config.held_out_prompts + config.stored_prompts
        hooks, exclude = hooks_of(model), config.rows.left_out(model.tokenizer)
        tokens = cut_prompts(config.text, model.tokenizer, config.context_size, config.seed, n_prompts, hooks=hooks)
        held_out, stored = tokens[: config.held_out_prompts], tokens[config.held_out_prompts :]
        passage = None if config.passage is None else self._tokens(config.passage.text, model.tokenizer)
        layers = mlp_layers(model, config.blocks)
        wanted = {
            (block, repeated): Wanted(
                folder / f"block{block}{'_passage' * repeated}",
                layer,
                config.derivatives(repeated=repeated),
                passage if repeated else None,
                config.passage.share if repeated and config.passage is not None else 0.0,
            )
            for block, layer in layers.items()
            for repeated in (False, True)
            if not repeated or (config.passage is not None and block in config.passage.blocks)
        }
        note("checking the stores of derivatives, and filling what they lack")
        self.stores: dict[tuple[int, bool], DerivativeStore] = dict(
            zip(
                wanted,
                filled_stores(
                    list(wanted.values()),
                    hooks,
                    stored,
                    model=result.model,
                    width=self.width,
                    exclude=exclude,
                    prompts_per_shard=config.prompts_per_shard,
                    prompts_per_pass=config.prompts_per_pass,
                    dtype=config.stored_dtype,
                    seed=config.seed,
                    on_shard=lambda number, of: note(f"filled shard {number + 1} of {of}"),
                ),
                strict=True,
            )
        )
        measured_at = dict.fromkeys(config.passage.blocks if config.passage is not None else (), passage)
        self.held_out = {
            block: HeldOut(hooks, layer, block, held_out, measured_at.get(block), config, exclude)
            for block, layer in layers.items()
        }
        self.rows = [of.said_rows() for of in self.held_out.values()]

    def _tokens(self, text: str, tokenizer: Any) -> torch.Tensor:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        return torch.tensor([[*start, *ids]])

    def train(self, run: Run, checkpoint: Path) -> tuple[Any, float | None]:
        """The transcoder of a run, and how many seconds its training takes (told by this call's part of it)."""
        config, width = self.config, self.width
        cfg = run.kind.config(run.arm, d_in=width, d_out=width, d_sae=config.d_sae, device=config.device)
        transcoder = made_with_seed(cfg, run.seed)
        rows = StoredRows(
            self.stores[run.block, run.repeated], run.arm.jacobian, batch_size=config.batch_size, seed=run.seed
        )
        note_origin(transcoder, self.model_title, self.held_out[run.block].layer, config.text, config.rows)
        last = latest_checkpoint(checkpoint)
        left = config.n_steps - (0 if last is None else int(last.name.removeprefix("step_")))
        begun = time.perf_counter()
        train_transcoder(
            transcoder,
            rows.layer,
            rows,
            n_steps=config.n_steps,
            lr=config.lr,
            lr_decay_steps=int(config.lr_decay_share * config.n_steps),
            dead_feature_window=max(1, config.n_steps // 4),
            checkpoint=checkpoint,
            checkpoint_every=CHECKPOINT_EVERY,
            resume=True,
        )
        return transcoder, (time.perf_counter() - begun) * config.n_steps / left if left else None
