"""Runs: transcoders trained in their conditions, and measured."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from faithfulness_plugin.benchmarks.methods import controls
from faithfulness_plugin.benchmarks.note.absolute_value.schema import Condition, ExperimentConfig, Run
from faithfulness_plugin.benchmarks.note.toy_problem import ToyProblem, rounded
from faithfulness_plugin.benchmarks.note.trainer.ensemble import train_ensemble
from faithfulness_plugin.benchmarks.note.trainer.member import Augmentation, ToyMember
from faithfulness_plugin.jacobian.exact import transcoder_jacobian
from faithfulness_plugin.results.threads import torch_threads
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.toy.abs_network import AbsNetwork
from faithfulness_plugin.toy.inputs import AbsInputs
from faithfulness_plugin.training.train import train_transcoder
from faithfulness_plugin.transcoders.base import TrainingTranscoder
from faithfulness_plugin.transcoders.batch_topk import BatchTopKTrainingTranscoder, BatchTopKTrainingTranscoderConfig
from faithfulness_plugin.transcoders.jumprelu import JumpReLUTrainingTranscoder, JumpReLUTrainingTranscoderConfig
from faithfulness_plugin.transcoders.standard import StandardTrainingTranscoderConfig
from faithfulness_plugin.transcoders.topk import TopKTrainingTranscoder, TopKTrainingTranscoderConfig

CLASSES: dict[str, tuple[tuple[Any, Any], tuple[Any, Any]]] = {
    "topk": (
        (TopKTrainingTranscoder, TopKTrainingTranscoderConfig),
        (controls.NoiseAugmentedTopKTranscoder, controls.NoiseAugmentedTopKTranscoderConfig),
    ),
    "batch_topk": (
        (BatchTopKTrainingTranscoder, BatchTopKTrainingTranscoderConfig),
        (controls.NoiseAugmentedBatchTopKTranscoder, controls.NoiseAugmentedBatchTopKTranscoderConfig),
    ),
    "jumprelu": (
        (JumpReLUTrainingTranscoder, JumpReLUTrainingTranscoderConfig),
        (controls.NoiseAugmentedJumpReLUTranscoder, controls.NoiseAugmentedJumpReLUTranscoderConfig),
    ),
}
"""By architecture: the transcoder, and the noise augmentation control with it. The standard one trains in ensembles."""


@torch_threads(1)
def runs(config: ExperimentConfig, jobs: Sequence[tuple[Condition, int]]) -> list[Run]:
    """The runs of these conditions and seeds, trained together where the architecture allows it.

    One thread is used (many such calls share a machine). The same seed gives every condition the same rows and the
    same initial weights, and a run does not depend on those beside it."""
    start = time.perf_counter()
    if config.architecture == "standard":
        transcoders = _train_together(config, jobs)
    else:
        transcoders = [_train(config, *job) for job in jobs]
    seconds = (time.perf_counter() - start) / len(jobs)
    problem = _problem(config)
    return [
        Run(
            condition=condition.name,
            seed=seed,
            seconds=round(seconds, 2),
            metrics=problem.measure(transcoder),
            jacobian_at_point=rounded(transcoder_jacobian(transcoder, problem.point)),
            projection=problem.project(transcoder),
        )
        for (condition, seed), transcoder in zip(jobs, transcoders, strict=True)
    ]


def _problem(config: ExperimentConfig) -> ToyProblem:
    return ToyProblem(
        config.d_in, config.density, config.repeat_frac, config.n_ones, config.n_validation, config.n_jacobian
    )


def _schedule(config: ExperimentConfig) -> dict[str, Any]:
    return {
        "n_steps": config.n_steps,
        "lr": config.lr,
        "lr_warm_up_steps": config.n_steps // 40,
        "lr_decay_steps": 3 * config.n_steps // 10,
        "progress": False,
    }


def _train_together(config: ExperimentConfig, jobs: Sequence[tuple[Condition, int]]) -> list[TrainingTranscoder[Any]]:
    members = [
        ToyMember(
            transcoder=StandardTrainingTranscoderConfig(**_fields(config, condition, seed)),
            seed=seed,
            density=config.density,
            repeat_frac=config.repeat_frac if condition.repeated else 0.0,
            n_ones=config.n_ones,
            batch_size=config.batch_size,
            augmentation=Augmentation("noise", condition.augmentation_coefficient)
            if condition.augmentation_coefficient
            else None,
        )
        for condition, seed in jobs
    ]
    ensemble = train_ensemble(members, AbsNetwork(config.d_in), **_schedule(config))
    return [ensemble.transcoder(i) for i in range(len(jobs))]


def _train(config: ExperimentConfig, condition: Condition, seed: int) -> TrainingTranscoder[Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "weights"))
        transcoder = _transcoder(config, condition, seed)
    repeat_frac = config.repeat_frac if condition.repeated else 0.0
    inputs = AbsInputs(config.d_in, config.density, repeat_frac, config.n_ones, config.batch_size, seed)
    return train_transcoder(transcoder, AbsNetwork(config.d_in), inputs, **_schedule(config)).transcoder


def _transcoder(config: ExperimentConfig, condition: Condition, seed: int) -> TrainingTranscoder[Any]:
    fields = _fields(config, condition, seed)
    plain, control = CLASSES[config.architecture]
    transcoder_class, config_class = plain
    if condition.augmentation_coefficient:
        transcoder_class, config_class = control
        fields["augmentation_coefficient"] = condition.augmentation_coefficient
    return transcoder_class(config_class(**fields))


def _fields(config: ExperimentConfig, condition: Condition, seed: int) -> dict[str, Any]:
    return {
        "d_in": config.d_in,
        "d_out": config.d_in,
        "d_sae": config.d_sae,
        "jacobian": {**condition.jacobian, "seed": seed},
        "jacobian_coefficient": condition.jacobian_coefficient,
        "jacobian_warm_up_steps": round(condition.jacobian_warm_up * config.n_steps),
        **config.sparsity_fields,
    }
