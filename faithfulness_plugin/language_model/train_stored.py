"""Train transcoders from stores of rows and derivatives, in one process or in several that torchrun started."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from faithfulness_plugin.language_model.config import TrainConfig
from faithfulness_plugin.language_model.evaluator import TranscoderEvaluator
from faithfulness_plugin.language_model.loaded import LoadedModel, WantedStore
from faithfulness_plugin.language_model.model_card import write_card
from faithfulness_plugin.language_model.plan import PlannedTranscoder
from faithfulness_plugin.language_model.result import Evaluation, TrainedTranscoder, TrainResult, with_blocks
from faithfulness_plugin.language_model.train import CHECKPOINTS, TRANSCODERS
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.results.experiment import Running
from faithfulness_plugin.results.timing import peak_memory
from faithfulness_plugin.store import DerivativeStore, StoredRows
from faithfulness_plugin.store.rows import require_shares
from faithfulness_plugin.training.processes import Processes
from faithfulness_plugin.training.train import train_transcoder
from faithfulness_plugin.transcoders.seeded import made_with_seed

PROMPTS_PER_SHARD = 64


def from_stores(
    result: TrainResult, running: Running, stores: Path, processes: Processes
) -> Iterator[tuple[TrainResult, str]]:
    """Fill a store for every block, then train transcoder after transcoder from it. The first process alone has the
    model: it fills, evaluates and writes; all of them train.

    Args:
        result: empty or partial, the same in every process.
        running: how to run this time.
        stores: a folder, with one store a block. An epoch is `tokens` rows of text, or all there is with `text.repeat`.
        processes: those that train together.

    Yields:
        The result so far, and an empty line.

    Raises:
        TrainConfigError: as `Training.run`.
        StoreError: as `Training.run`.
        AbortedByRankZero: as `Training.run`.
    """
    config = result.config
    model = processes.first_does(lambda: _Model(config, stores, running.note, processes))
    result = with_blocks(result, processes.from_first(None if model is None else list(model.layers)) or [])
    if model is not None:
        result = result.model_copy(update={"rows": model.rows})
        for of in () if running.resumes else result.planned:
            shutil.rmtree(running.out / CHECKPOINTS / of.name, ignore_errors=True)
    yield result, ""
    processes.wait()
    done = {trained.name for trained in result.transcoders}
    for of in result.planned:
        if of.name in done:
            continue
        running.note(f"training {of.name}")
        trained = _train(of, config, running.out, stores, model, processes)
        if trained is not None:
            result = result.model_copy(update={"transcoders": [*result.transcoders, trained]})
            yield result, ""
        processes.wait()
    yield result.model_copy(update={"complete": True, "peak_memory": peak_memory()}), ""


def train_on_store(
    transcoder: Any,
    store: DerivativeStore,
    product: Any,
    config: Any,
    *,
    seed: int,
    checkpoint: Path,
    checkpoint_every: int,
    lr_warm_up_steps: int = 0,
    processes: Processes = Processes(),  # noqa: B008
) -> None:
    """Train a transcoder on the rows of a store, from the last checkpoint where there is one.

    Args:
        transcoder: is trained in place.
        store: a full one.
        product: the derivatives to train on, as a JacobianMatchingConfig or its fields; None for outputs alone.
        config: settings with `batch_size`, `n_steps`, `lr` and `lr_decay_share`.
        seed: decides the rows' order.
        checkpoint: the folder for checkpoints.
        checkpoint_every: steps between two of them.
        lr_warm_up_steps: steps over which the learning rate rises.
        processes: those that train together.
    """
    rows = StoredRows(
        store, product, batch_size=config.batch_size, seed=seed, rank=processes.rank, processes=processes.size
    )
    train_transcoder(
        transcoder,
        rows.layer,
        rows,
        n_steps=config.n_steps,
        lr=config.lr,
        lr_warm_up_steps=lr_warm_up_steps,
        lr_decay_steps=int(config.lr_decay_share * config.n_steps),
        dead_feature_window=max(1, config.n_steps // 4),
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume=True,
    )


def note_origin(transcoder: Any, model: str, layer: HookedLayer, config: Any) -> None:
    """Note in the metadata where a transcoder belongs, as SAELens's runner does.

    Args:
        transcoder: its metadata are changed.
        model: the model's name.
        layer: what it replaces.
        config: settings with `rows` and `text`.
    """
    metadata = transcoder.cfg.metadata
    metadata.model_name, metadata.exclude_special_tokens = model, not config.rows.special_tokens
    metadata.seqpos_slice, metadata.dataset_path = config.rows.seqpos_slice, config.text.title
    metadata.hook_name, metadata.hook_name_out = layer.hook_in, layer.hook_out


def _train(
    of: PlannedTranscoder, config: TrainConfig, out: Path, stores: Path, model: "_Model | None", processes: Processes
) -> TrainedTranscoder | None:
    """Train a transcoder; return its record in the first process."""
    store = DerivativeStore.open(_folder(stores, of.block))
    cfg = config.transcoder_config(store.index.d_in, store.index.d_out, of.coefficient, of.seed, of.arm)
    transcoder = made_with_seed(cfg, of.seed)
    before = None if model is None else model.evaluate(of, transcoder, 0)
    train_on_store(
        transcoder,
        store,
        cfg.jacobian if of.coefficient > 0 else None,
        config,
        seed=config.seed,
        checkpoint=out / CHECKPOINTS / of.name,
        checkpoint_every=max(1, config.n_steps // (config.checkpoints + 1)),
        lr_warm_up_steps=config.lr_warm_up_steps,
        processes=processes,
    )
    if model is None or before is None:
        return None
    layer, folder = model.layers[of.block], out / TRANSCODERS / of.name
    note_origin(transcoder, model.title, layer, config)
    after = model.evaluate(of, transcoder, config.n_steps)
    transcoder.save_inference_model(folder)
    write_card(folder, transcoder, after.model_dump())
    return TrainedTranscoder(
        **of._asdict(), hook_in=layer.hook_in, hook_out=layer.hook_out, evaluations=[before, after]
    )


def _folder(stores: Path, block: int) -> Path:
    return stores / f"block{block}"


class _Model:
    """What the first process has: the model, its layers, full stores, and evaluators."""

    def __init__(self, config: TrainConfig, stores: Path, note: Callable[[str], None], processes: Processes) -> None:
        require_shares(config.batch_size, processes.size)
        source = LoadedModel(config, note)
        self.config, self.title = config, source.title
        needed = -(-config.tokens // config.rows.per_prompt(config.context_size, source.tokenizer))
        least = config.held_out + 2 if config.text.repeat else None
        tokens = source.prompts(config.held_out + needed, least)
        held_out, stored = tokens[: config.held_out], tokens[config.held_out :]
        self.layers = source.mlps(config.blocks)
        weights = config.stores.keep == "rows"
        matched = [of for of in config.planned([0]) if of.coefficient > 0 and not weights]
        asked = [config.transcoder_config(1, 1, 1.0, of.seed, of.arm).jacobian for of in matched]
        products = list({repr(product.of_layer): product for product in reversed(asked)}.values())
        wanted = [
            WantedStore(_folder(stores, block), layer, products, weights=weights)
            for block, layer in self.layers.items()
        ]
        dtype = config.stores.dtype or config.model.dtype
        source.filled_stores(wanted, stored, prompts_per_shard=PROMPTS_PER_SHARD, dtype=dtype)
        self.evaluator = TranscoderEvaluator(
            source.hooks,
            {f"{block}": layer for block, layer in self.layers.items()},
            held_out.to(source.hooks.device),
            exclude=source.exclude,
            batch_size=config.prompts_per_pass,
            spliced_prompts=config.spliced(len(self.layers)),
        )
        self.rows = self.evaluator.rows_records()

    def evaluate(self, of: PlannedTranscoder, transcoder: Any, step: int) -> Evaluation:
        """Evaluate a transcoder on the held-out prompts."""
        entries: dict[str, Any] = self.evaluator.evaluate({f"{of.block}": transcoder})[f"{of.block}"]
        return Evaluation(name=of.name, step=step, tokens=step * self.config.batch_size, **entries)
