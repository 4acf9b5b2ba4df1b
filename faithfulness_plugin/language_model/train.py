"""What `faithfulness train` does: transcoders of a language model's MLPs, from the model or from stores of its rows."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sae_lens
import torch
from sae_lens.config import LoggingConfig
from sae_lens.multi_sae_training_runner import MultiSAETrainingRunnerConfig
from typing_extensions import override

from faithfulness_plugin.language_model.config import MIXED, TrainConfig
from faithfulness_plugin.language_model.loaded import LoadedModel
from faithfulness_plugin.language_model.model import model_title
from faithfulness_plugin.language_model.plan import PlannedTranscoder
from faithfulness_plugin.language_model.report import tables
from faithfulness_plugin.language_model.result import Evaluation, TrainedTranscoder, TrainResult, with_blocks
from faithfulness_plugin.language_model.room import require_room
from faithfulness_plugin.language_model.speed import measure
from faithfulness_plugin.language_model.text import load_prompts
from faithfulness_plugin.results.experiment import Experiment, Running
from faithfulness_plugin.results.schema import Environment
from faithfulness_plugin.results.timing import peak_memory
from faithfulness_plugin.training.processes import Processes
from faithfulness_plugin.transcoders.seeded import made_with_seed

CHECKPOINTS, TRANSCODERS = "checkpoints", "transcoders"


class Training(Experiment[TrainConfig, TrainResult]):
    """Trains a transcoder for every block, coefficient and seed.

    Args:
        stores: a folder for stores of rows and derivatives, which are filled once and trained from; None trains from
            the running model.
        processes: those that train together, from stores.
    """

    parts = "transcoders"
    config_class = TrainConfig

    def __init__(self, stores: Path | None = None, processes: Processes = Processes()) -> None:  # noqa: B008
        self.stores, self.processes = stores, processes

    @override
    def fresh(self, config: TrainConfig) -> TrainResult:
        return TrainResult(
            complete=False,
            environment=Environment.here(config.device),
            model=model_title(config.model),
            config=config,
            from_stores=self.stores is not None,
        )

    @override
    def found(self, result: TrainResult, config: TrainConfig) -> TrainResult:
        """Resume a partial run with the settings of now, where they decide no number."""
        return result if result.complete else result.model_copy(update={"config": config})

    @override
    def progress(self, result: TrainResult) -> tuple[int, int]:
        return len(result.transcoders), len(result.planned)

    @override
    def run(self, result: TrainResult, running: Running) -> Iterator[tuple[TrainResult, str]]:
        """Train, from the last checkpoint where there is one, and write transcoders, cards and evaluations.

        Raises:
            TrainConfigError: the model, its blocks or the text are not as configured.
            StoreError: a store of something else, in use, or that cannot be written.
            AbortedByRankZero: another process ends because of an error of the first one.
            KeyboardInterrupt: after a checkpoint.
        """
        if self.stores is None:
            return _from_model(result, running)
        from faithfulness_plugin.language_model.train_stored import from_stores

        return from_stores(result, running, self.stores, self.processes)

    @override
    def tables(self, result: TrainResult) -> str:
        return tables(result)


def _from_model(result: TrainResult, running: Running) -> Iterator[tuple[TrainResult, str]]:
    """Train all transcoders at once, in one pass over the model."""
    from faithfulness_plugin.adapters.sae_lens import faithful_runner

    config = result.config
    source = LoadedModel(config, running.note)
    running.note("cutting the text into prompts")
    prompts = load_prompts(config, source.tokenizer, source.hooks)
    running.note("looking at the layers")
    layers = source.mlps(config.blocks)
    result = with_blocks(result, layers)
    planned, width = result.planned, source.model.cfg.d_model
    runner_config = _runner_config(result, running.out, width)
    running.note(require_room(result, width, running.out, resumes=running.resumes))
    with _without_warnings():
        runner: Any = faithful_runner(
            runner_config,
            override_model=source.model,
            override_dataset=prompts,
            override_sae={of.name: made_with_seed(runner_config.saes[of.name], of.seed) for of in planned},
            layer={of.name: layers[of.block] for of in planned},
            evaluate_every=-(-config.n_steps // config.evaluations),
            norms_above=config.rows.norms_above,
            spliced_prompts=config.spliced(len(layers)),
            buffer_dtype=None if config.buffer_dtype is None else getattr(torch, config.buffer_dtype),
            repeat=config.text.repeat,
            resume=running.resumes,
            overwrite=not running.resumes,
        )
    result = result.model_copy(update={"rows": runner.matched.evaluator.rows_records()})
    yield result, ""  # from here on there are checkpoints to resume from
    running.note(
        f"training {len(planned)} transcoders: first the model fills the buffer of {config.buffer_rows:,} rows"
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All samples in the training dataset have been exhausted")
        trained = runner.run()
    prompts.say_skipped()
    speed, matched = None, next((of.name for of in planned if of.coefficient > 0), None)
    if matched is not None:
        running.note("timing a step with and without the term")
        layer, runner.matched.store.repeat = runner.matched.layers[matched], True  # what is timed is no training
        speed = measure(runner.matched.store, trained[matched], layer, batch_size=config.batch_size)
    done = {
        "transcoders": [_record(runner, of) for of in planned],
        "speed": speed,
        "complete": True,
        "peak_memory": peak_memory(),
    }
    yield result.model_copy(update=done), ""


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence SAELens's warnings that its own configuration does not know model and text: this package's does."""
    before = sae_lens.logger.level
    sae_lens.logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        sae_lens.logger.setLevel(before)


def _record(runner: Any, of: PlannedTranscoder) -> TrainedTranscoder:
    layer, lines = runner.matched.layers[of.name], runner.matched.evaluations.lines
    evaluations = [Evaluation(**line) for line in lines if line["name"] == of.name]
    return TrainedTranscoder(**of._asdict(), hook_in=layer.hook_in, hook_out=layer.hook_out, evaluations=evaluations)


def _runner_config(result: TrainResult, out: Path, d_model: int) -> MultiSAETrainingRunnerConfig:
    config, planned = result.config, result.planned
    saes = {of.name: config.transcoder_config(d_model, d_model, of.coefficient, of.seed, of.arm) for of in planned}
    return MultiSAETrainingRunnerConfig(
        saes=saes,
        hook_names={of.name: f"blocks.{of.block}.mlp.hook_in" for of in planned},
        model_name=model_title(config.model),
        model_class_name="TransformerBridge",
        dataset_path=config.text.title,
        context_size=config.context_size,
        training_tokens=config.n_steps * config.batch_size,
        train_batch_size_tokens=config.batch_size,
        store_batch_size_prompts=config.prompts_per_pass,
        n_batches_in_buffer=config.buffer_prompts,
        n_eval_batches=config.held_out // config.prompts_per_pass,
        activations_mixing_fraction=MIXED,
        exclude_special_tokens=not config.rows.special_tokens,
        seqpos_slice=config.rows.seqpos_slice,
        device=config.device,
        prefetch_llm_batches=config.prefetch,
        seed=config.seed,
        lr=config.lr,
        lr_end=0.0,
        lr_warm_up_steps=config.lr_warm_up_steps,
        lr_decay_steps=int(config.lr_decay_share * config.n_steps),
        dead_feature_window=max(1, config.n_steps // 4),
        n_checkpoints=config.checkpoints,
        checkpoint_path=str(out / CHECKPOINTS),
        output_path=str(out / TRANSCODERS),
        logger=LoggingConfig(log_to_wandb=config.wandb),
    )
