"""One run: train one transcoder in one condition, and measure it."""

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from faithfulness_plugin import metrics
from faithfulness_plugin.benchmarks import controls
from faithfulness_plugin.benchmarks.absolute_value.schema import (
    VALIDATION_SEED,
    Condition,
    ExperimentConfig,
    Projection,
    Run,
    RunMetrics,
)
from faithfulness_plugin.jacobian.exact import transcoder_jacobian
from faithfulness_plugin.metrics.feature_recovery import LIVE_SHARE
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.toy.abs_network import AbsNetwork
from faithfulness_plugin.toy.circuits import abs_circuits, datapoint_circuit
from faithfulness_plugin.toy.inputs import AbsInputs
from faithfulness_plugin.training import train_transcoder
from faithfulness_plugin.transcoders.base import TrainingTranscoder
from faithfulness_plugin.transcoders.batch_topk import BatchTopKTrainingTranscoder, BatchTopKTrainingTranscoderConfig
from faithfulness_plugin.transcoders.jumprelu import JumpReLUTrainingTranscoder, JumpReLUTrainingTranscoderConfig
from faithfulness_plugin.transcoders.standard import StandardTrainingTranscoder, StandardTrainingTranscoderConfig
from faithfulness_plugin.transcoders.topk import TopKTrainingTranscoder, TopKTrainingTranscoderConfig

CLASSES: dict[str, tuple[tuple[Any, Any], tuple[Any, Any]]] = {
    "standard": (
        (StandardTrainingTranscoder, StandardTrainingTranscoderConfig),
        (controls.NoiseAugmentedTranscoder, controls.NoiseAugmentedTranscoderConfig),
    ),
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
"""By architecture: the transcoder, and the noise augmentation control with it."""


def run(config: ExperimentConfig, condition: Condition, seed: int) -> Run:
    """Trains with one thread (many runs share a machine) and measures on rows of a seed of their own.

    The same seed gives every condition the same initial weights."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start = time.perf_counter()
        transcoder = _train(config, condition, seed)
        return _measure(config, condition, seed, transcoder, time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)


def _train(config: ExperimentConfig, condition: Condition, seed: int) -> TrainingTranscoder[Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "weights"))
        transcoder = _transcoder(config, condition, seed)
    train_transcoder(
        transcoder,
        AbsNetwork(config.d_in),
        _inputs(config, config.repeat_frac if condition.repeated else 0.0, config.batch_size, seed),
        n_steps=config.n_steps,
        lr=config.lr,
        lr_warm_up_steps=config.n_steps // 40,
        lr_decay_steps=3 * config.n_steps // 10,
        progress=False,
    )
    return transcoder


def _transcoder(config: ExperimentConfig, condition: Condition, seed: int) -> TrainingTranscoder[Any]:
    fields: dict[str, Any] = {
        "d_in": config.d_in,
        "d_out": config.d_in,
        "d_sae": config.d_sae,
        "jacobian": {**condition.jacobian, "seed": seed},
        "jacobian_coefficient": condition.jacobian_coefficient,
        "jacobian_warm_up_steps": round(condition.jacobian_warm_up * config.n_steps),
        **config.sparsity_fields,
    }
    plain, control = CLASSES[config.architecture]
    transcoder_class, config_class = plain
    if condition.augmentation_coefficient:
        transcoder_class, config_class = control
        fields["augmentation_coefficient"] = condition.augmentation_coefficient
    return transcoder_class(config_class(**fields))


def _inputs(config: ExperimentConfig, repeat_frac: float, batch_size: int, seed: int) -> AbsInputs:
    return AbsInputs(config.d_in, config.density, repeat_frac, config.n_ones, batch_size, seed)


def _measure(
    config: ExperimentConfig, condition: Condition, seed: int, transcoder: TrainingTranscoder[Any], seconds: float
) -> Run:
    transcoder.eval()
    layer = AbsNetwork(config.d_in)
    inputs = _inputs(config, 0.0, config.n_validation, VALIDATION_SEED)
    clean, point = next(inputs), inputs.point
    repeated = next(_inputs(config, config.repeat_frac, config.n_validation, VALIDATION_SEED))

    memorization = metrics.memorization(transcoder, point, layer=layer)
    reconstruction = metrics.reconstruction(transcoder, layer, clean)
    rows = clean[: config.n_jacobian]
    jacobian = metrics.jacobian_error(transcoder, layer, rows, columns=rows != 0)
    off_diagonal = metrics.off_diagonal_energy(transcoder, point)
    own = abs_circuits(config.d_in)
    recovery = metrics.feature_recovery(transcoder, repeated, own)
    projection = metrics.circuit_projection(transcoder, repeated, [*own, datapoint_circuit(point)])
    live = np.flatnonzero(projection.norms > LIVE_SHARE * projection.norms.max(initial=0.0))
    return Run(
        condition=condition.name,
        seed=seed,
        seconds=round(seconds, 2),
        metrics=RunMetrics(
            m=memorization.m,
            m_fraction=memorization.fraction,
            **reconstruction.to_dict(),
            jacobian_error=jacobian.relative_error,
            jacobian_cosine=jacobian.cosine,
            jacobian_error_data=jacobian.relative_error_data,
            off_diagonal_energy=off_diagonal.energy,
            off_diagonal_norm=off_diagonal.norm,
            recovered=recovery.recovered,
            precision=recovery.precision,
            circuit_cosine=recovery.mean_cosine,
        ),
        jacobian_at_point=_rounded(transcoder_jacobian(transcoder, point)),
        projection=Projection(
            features=live.tolist(),
            weights=projection.weights[:, live].round(4).tolist(),
            residual=projection.residual[live].round(4).tolist(),
        ),
    )


def _rounded(matrix: Tensor) -> list[list[float]]:
    return matrix.detach().double().numpy().round(4).tolist()
