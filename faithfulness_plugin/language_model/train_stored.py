"""A run whose rows and derivatives come from stores: in one process, or in several that torchrun started."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faithfulness_plugin.language_model.config import Arm, TextSource, TrainConfig, TrainConfigError
from faithfulness_plugin.language_model.evaluator import TranscoderEvaluator
from faithfulness_plugin.language_model.model import load_model, mlp_layers
from faithfulness_plugin.language_model.model_card import write_card
from faithfulness_plugin.language_model.result import Evaluation, Trained, TrainResult
from faithfulness_plugin.language_model.rows import RowSettings
from faithfulness_plugin.language_model.stores import Wanted, filled_stores
from faithfulness_plugin.language_model.text import cut_prompts
from faithfulness_plugin.language_model.train import CHECKPOINTS, TRANSCODERS, said_rows
from faithfulness_plugin.layers.any_model import hooks_of
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.results.result_file import RESULT_FILENAME
from faithfulness_plugin.results.schema import write_text
from faithfulness_plugin.results.timing import peak_memory
from faithfulness_plugin.store import DerivativeStore, StoredRows, StoreError
from faithfulness_plugin.store.rows import require_shares
from faithfulness_plugin.training.processes import AbortedByRankZero, Processes
from faithfulness_plugin.training.train import train_transcoder
from faithfulness_plugin.transcoders.seeded import made_with_seed

PROMPTS_PER_SHARD = 64


def complete_from_stores(
    result: TrainResult,
    out: Path,
    stores: Path,
    note: Callable[[str], None],
    processes: Processes,
    *,
    begin_anew: bool = False,
) -> TrainResult:
    """Fills a store for every block, then trains transcoder after transcoder from it; each is written as it ends. The
    first process alone has the model: it fills, evaluates, writes; all of them train.

    Args:
        result: as every process has it.
        stores: folder, one store a block. An epoch is `tokens` rows of text, or all there is with `text.repeat`.
        note: is told what is going on.
        begin_anew: over whatever stands in `out`.

    Raises:
        TrainConfigError: the model, its blocks or the text are not to be had as configured.
        StoreError: a store of something else, in use, or that cannot be written; more processes than rows in a batch.
    """
    if result.complete:
        return result
    config = result.config
    model, problem = None, None
    if processes.first:
        try:
            require_shares(config.batch_size, processes.size)
            model = _Model(config, result, stores, note)
            result = result.model_copy(update={"rows": model.rows})
        except (TrainConfigError, StoreError) as error:
            problem = error
    if processes.from_first(problem is not None):
        raise problem if problem is not None else AbortedByRankZero
    if processes.first:
        for arm in config.arms() if begin_anew else ():
            shutil.rmtree(out / CHECKPOINTS / arm.name, ignore_errors=True)
        write_text(out / RESULT_FILENAME, result.model_dump_json(indent=1))
    processes.wait()
    done = {trained.name for trained in result.transcoders}
    for arm in config.arms():
        if arm.name in done:
            continue
        note(f"training {arm.name}")
        trained = _train(arm, config, out, stores, model, processes)
        if trained is not None:
            result = result.model_copy(update={"transcoders": [*result.transcoders, trained]})
            write_text(out / RESULT_FILENAME, result.model_dump_json(indent=1))
        processes.wait()
    finished = result.model_copy(update={"complete": True, "peak_memory": peak_memory()})
    if processes.first:
        write_text(out / RESULT_FILENAME, finished.model_dump_json(indent=1))
    return finished


def _train(
    arm: Arm, config: TrainConfig, out: Path, stores: Path, model: "_Model | None", processes: Processes
) -> Trained | None:
    """The record of a transcoder, which the first process has."""
    store = DerivativeStore.open(_folder(stores, arm.block))
    cfg = config.transcoder_config(store.index.d_in, store.index.d_out, arm.coefficient, arm.seed)
    transcoder = made_with_seed(cfg, arm.seed)
    product = cfg.jacobian if arm.coefficient > 0 else None
    rows = StoredRows(
        store, product, batch_size=config.batch_size, seed=config.seed, rank=processes.rank, processes=processes.size
    )
    before = None if model is None else model.evaluated(arm, transcoder, 0)
    n_steps = config.n_steps
    train_transcoder(
        transcoder,
        rows.layer,
        rows,
        n_steps=n_steps,
        lr=config.lr,
        lr_warm_up_steps=config.lr_warm_up_steps,
        lr_decay_steps=int(config.lr_decay_share * n_steps),
        dead_feature_window=max(1, n_steps // 4),
        checkpoint=out / CHECKPOINTS / arm.name,
        checkpoint_every=max(1, n_steps // (config.checkpoints + 1)),
        resume=True,
    )
    if model is None or before is None:
        return None
    layer = model.layers[arm.block]
    note_origin(transcoder, model.title, layer, config.text, config.rows)
    after = model.evaluated(arm, transcoder, n_steps)
    folder = out / TRANSCODERS / arm.name
    transcoder.save_inference_model(folder)
    write_card(folder, transcoder, after.model_dump())
    return Trained(**arm._asdict(), hook_in=layer.hook_in, hook_out=layer.hook_out, evaluations=[before, after])


def _folder(stores: Path, block: int) -> Path:
    return stores / f"block{block}"


def note_origin(transcoder: Any, model: str, layer: HookedLayer, text: TextSource, rows: RowSettings) -> None:
    """What SAELens's runner would note of where a transcoder belongs."""
    metadata = transcoder.cfg.metadata
    metadata.model_name, metadata.exclude_special_tokens = model, not rows.special_tokens
    metadata.seqpos_slice = (rows.skip_first, None) if rows.skip_first else (None,)
    metadata.hook_name, metadata.hook_name_out = layer.hook_in, layer.hook_out
    metadata.dataset_path = ", ".join(text.files) or text.name


class _Model:
    """What the first process has: the model, its layers, full stores, and an evaluator."""

    def __init__(self, config: TrainConfig, result: TrainResult, stores: Path, note: Callable[[str], None]) -> None:
        self.config, self.title = config, result.model
        note(f"loading {result.model}")
        model = load_model(config.model, config.device)
        note("cutting the text into prompts")
        hooks, exclude = hooks_of(model), config.rows.left_out(model.tokenizer)
        wanted = -(-config.tokens // config.rows.per_prompt(config.context_size, model.tokenizer))
        n, least = config.held_out + wanted, config.held_out + 2 if config.text.repeat else None
        tokens = cut_prompts(config.text, model.tokenizer, config.context_size, config.seed, n, least, hooks)
        held_out, stored = tokens[: config.held_out], tokens[config.held_out :]
        self.layers = mlp_layers(model, config.blocks)
        width = model.cfg.d_model
        jacobian = config.transcoder_config(width, width, 1.0).jacobian
        products = [jacobian] if any(config.coefficients) else []
        note("checking the stores of derivatives, and filling what they lack")
        filled_stores(
            [Wanted(_folder(stores, block), layer, products) for block, layer in self.layers.items()],
            hooks,
            stored,
            model=result.model,
            width=width,
            exclude=exclude,
            prompts_per_shard=PROMPTS_PER_SHARD,
            prompts_per_pass=config.prompts_per_pass,
            dtype=config.model.dtype,
            seed=config.seed,
            on_shard=lambda number, of: note(f"filled shard {number + 1} of {of}"),
        )
        self.evaluators = {
            block: TranscoderEvaluator(
                hooks, {"t": layer}, held_out.to(hooks.device), exclude=exclude, batch_size=config.prompts_per_pass
            )
            for block, layer in self.layers.items()
        }

        self.rows = [record for of in self.evaluators.values() for record in said_rows(of)]

    def evaluated(self, arm: Arm, transcoder: Any, step: int) -> Evaluation:
        """On the held-out prompts."""
        entries: dict[str, Any] = self.evaluators[arm.block].evaluate({"t": transcoder})["t"]
        return Evaluation(name=arm.name, step=step, tokens=step * self.config.batch_size, **entries)
