"""One run: model, text, runner, evaluation, timing, result file."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sae_lens
from sae_lens.config import LoggingConfig
from sae_lens.multi_sae_training_runner import MultiSAETrainingRunnerConfig

from faithfulness_plugin.adapters.sae_lens import faithful_runner
from faithfulness_plugin.language_model.config import MIXED, Arm, TrainConfig
from faithfulness_plugin.language_model.evaluator import TranscoderEvaluator
from faithfulness_plugin.language_model.model import load_model, mlp_layers, model_title
from faithfulness_plugin.language_model.result import Evaluation, Trained, TrainResult
from faithfulness_plugin.language_model.rows import RowsRecord, say_rows
from faithfulness_plugin.language_model.speed import measure
from faithfulness_plugin.language_model.text import load_prompts
from faithfulness_plugin.layers.any_model import hooks_of
from faithfulness_plugin.results.result_file import RESULT_FILENAME, begin_or_go_on
from faithfulness_plugin.results.schema import Environment, write_text
from faithfulness_plugin.results.timing import peak_memory
from faithfulness_plugin.transcoders.seeded import made_with_seed

CHECKPOINTS, TRANSCODERS = "checkpoints", "transcoders"


def open_result(out: Path, config: TrainConfig, *, overwrite: bool, from_stores: bool = False) -> TrainResult:
    """The result that stands in `out`, or a fresh one, which is not written yet. Raises ResultError as
    `begin_or_go_on`."""
    fresh = TrainResult(
        complete=False,
        environment=Environment.here(config.device),
        model=model_title(config.model),
        config=config,
        from_stores=from_stores,
    )
    result = begin_or_go_on(out, fresh, overwrite=overwrite, write=False)
    return result if result.complete else result.model_copy(update={"config": config})


def complete(result: TrainResult, out: Path, note: Callable[[str], None], *, begin_anew: bool = False) -> TrainResult:
    """Trains, from the last checkpoint where there is one, and writes result, transcoders, cards and evaluations.

    Args:
        note: is told what is going on.
        begin_anew: over whatever stands there.

    Raises:
        TrainConfigError: the model, its blocks or the text are not to be had as configured.
        KeyboardInterrupt: after a checkpoint.
    """
    if result.complete:
        return result
    config = result.config
    note(f"loading {result.model}")
    model = load_model(config.model, config.device)
    note("cutting the text into prompts")
    prompts = load_prompts(config, model.tokenizer, hooks_of(model))
    note("looking at the layers")
    layers = mlp_layers(model, config.blocks)
    runner_config = _runner_config(config, out, model.cfg.d_model)
    saes = {arm.name: made_with_seed(runner_config.saes[arm.name], arm.seed) for arm in config.arms()}  # pyright: ignore[reportArgumentType]
    with _without_warnings():
        runner = faithful_runner(
            runner_config,
            override_model=model,
            override_dataset=prompts,
            override_sae=saes,
            layer={arm.name: layers[arm.block] for arm in config.arms()},
            evaluate_every=-(-config.n_steps // config.evaluations),
            norms_above=config.rows.norms_above,
            repeat=config.text.repeat,
            resume=not begin_anew,
            overwrite=begin_anew,
        )
    result = result.model_copy(update={"rows": said_rows(runner.matched.evaluator)})
    write_text(out / RESULT_FILENAME, result.model_dump_json(indent=1))  # from here on there is something to go on with
    note(f"training {len(saes)} transcoders")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All samples in the training dataset have been exhausted")
        trained = runner.run()
    prompts.say_what_was_passed_by()
    matched = next((arm.name for arm in config.arms() if arm.coefficient > 0), None)
    speed = None
    if matched is not None:
        note("timing a step with and without the term")
        layer, runner.matched.store.repeat = runner.matched.layers[matched], True  # what is timed is no training
        speed = measure(runner.matched.store, trained[matched], layer, batch_size=config.batch_size)
    finished = result.model_copy(
        update={
            "complete": True,
            "transcoders": [_trained(runner, arm) for arm in config.arms()],
            "speed": speed,
            "peak_memory": peak_memory(),
        }
    )
    write_text(out / RESULT_FILENAME, finished.model_dump_json(indent=1))
    return finished


@contextmanager
def _without_warnings() -> Iterator[None]:
    """SAELens's, that its own configuration does not know model and text: this package's does."""
    before = sae_lens.logger.level
    sae_lens.logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        sae_lens.logger.setLevel(before)


def _trained(runner: Any, arm: Arm) -> Trained:
    layer, lines = runner.matched.layers[arm.name], runner.matched.evaluations.lines
    evaluations = [Evaluation(**line) for line in lines if line["name"] == arm.name]
    return Trained(**arm._asdict(), hook_in=layer.hook_in, hook_out=layer.hook_out, evaluations=evaluations)


def _runner_config(config: TrainConfig, out: Path, d_model: int) -> MultiSAETrainingRunnerConfig:
    text = ", ".join(config.text.files) or config.text.name
    return MultiSAETrainingRunnerConfig(
        saes={arm.name: config.transcoder_config(d_model, d_model, arm.coefficient, arm.seed) for arm in config.arms()},
        hook_names={arm.name: f"blocks.{arm.block}.mlp.hook_in" for arm in config.arms()},
        model_name=model_title(config.model),
        model_class_name="TransformerBridge",
        dataset_path=text,
        context_size=config.context_size,
        training_tokens=config.n_steps * config.batch_size,
        train_batch_size_tokens=config.batch_size,
        store_batch_size_prompts=config.prompts_per_pass,
        n_batches_in_buffer=config.buffer_prompts,
        n_eval_batches=config.held_out // config.prompts_per_pass,
        activations_mixing_fraction=MIXED,
        exclude_special_tokens=not config.rows.special_tokens,
        seqpos_slice=(config.rows.skip_first, None) if config.rows.skip_first else (None,),
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


def said_rows(evaluator: TranscoderEvaluator | None) -> list[RowsRecord]:
    """Record which held-out rows count at each layer, say so, and warn where a few make most of the variance."""
    if evaluator is None:
        return []
    found: dict[tuple[str, str], RowsRecord] = {}
    for name, spread in evaluator.concentration().items():
        layer = evaluator.layers[name]
        place = (layer.hook_in, layer.hook_out)
        if place not in found:
            counts = evaluator.kept[place].counts
            say_rows(f"held-out rows at {layer.hook_in}", counts, spread)
            found[place] = RowsRecord.of(layer.hook_in, counts, spread)
    return list(found.values())
