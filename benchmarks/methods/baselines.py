"""The methods that come with the benchmark: five architectures, with and without skip, five objectives."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from faithfulness_plugin.benchmarks.methods.controls import augmented
from faithfulness_plugin.benchmarks.note.trainer.member import Augmentation, ToyConfig, ToyMember
from faithfulness_plugin.benchmarks.note.trainer.rows import RowSource
from faithfulness_plugin.benchmarks.note.trainer.weights import training_transcoder
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.training.train import train_transcoder
from faithfulness_plugin.transcoders.base import TrainingTranscoder
from faithfulness_plugin.transcoders.batch_topk import BatchTopKTrainingTranscoderConfig
from faithfulness_plugin.transcoders.jumprelu import JumpReLUTrainingTranscoderConfig
from faithfulness_plugin.transcoders.standard import StandardTrainingTranscoderConfig
from faithfulness_plugin.transcoders.topk import TopKTrainingTranscoderConfig

N_FEATURES, BATCH_SIZE = 64, 256


@dataclass(frozen=True)
class Architecture:
    """A config, and the field that sparsity is swept by."""

    config: type[Any]
    swept: str
    strengths: tuple[float, ...]
    fixed: tuple[tuple[str, Any], ...] = ()
    secant_coefficient: float = 1.0
    """Of steps in all directions at once, which a transcoder that keeps to a few features cannot follow."""


ARCHITECTURES = {
    "relu_l1": Architecture(
        StandardTrainingTranscoderConfig,
        "sparsity_coefficient",
        (0.01, 0.05, 0.2, 0.8, 3.0),
        (("sparsity", "l1"),),
        10.0,
    ),
    "relu_tanh": Architecture(
        StandardTrainingTranscoderConfig, "sparsity_coefficient", (0.01, 0.05, 0.2, 0.6, 2.0), (), 10.0
    ),
    "topk": Architecture(TopKTrainingTranscoderConfig, "k", (1.0, 2.0, 3.0, 4.0)),
    "batch_topk": Architecture(BatchTopKTrainingTranscoderConfig, "k", (1.2, 1.6, 2.2, 3.2)),
    "jumprelu": Architecture(
        JumpReLUTrainingTranscoderConfig,
        "l0_coefficient",
        (0.001, 0.005, 0.025, 0.12),
        (("jumprelu_bandwidth", 0.1), ("jumprelu_init_threshold", 0.05)),
    ),
}


@dataclass(frozen=True)
class Objective:
    """What is asked for beside the outputs at the rows."""

    jacobian: tuple[tuple[str, Any], ...] = ()
    coefficient: float | None = 0.0
    """Of the Jacobian term; None: the architecture's own for secants."""
    augmentation: Augmentation | None = None


OBJECTIVES = {
    "none": Objective(),
    "jvp": Objective((("estimator", "jvp"), ("jitter", 0.5)), 10.0),
    "secant": Objective((("estimator", "secant"), ("radius", 0.5)), None),
    "data": Objective((("estimator", "secant"), ("probe", "difference"), ("radius", 0.5)), 10.0),
    "augmentation": Objective(augmentation=Augmentation("noise", coefficient=1.0, scale=0.5)),
}


@dataclass(frozen=True)
class Baseline:
    """One of the shipped methods. Adam at 3e-3, warmed up over 2.5 % of the steps, with decay over the last 30 %; the
    Jacobian term is warmed up over the first eighth."""

    architecture: str
    objective: str = "none"
    skip: bool = False
    n_steps: int = 2000

    @property
    def name(self) -> str:
        """As on the command line: architecture, "skip" with one, objective."""
        return "-".join([self.architecture, *(["skip"] if self.skip else []), self.objective])

    @property
    def strengths(self) -> tuple[float, ...]:
        return ARCHITECTURES[self.architecture].strengths

    @property
    def schedule(self) -> dict[str, Any]:
        """Of training."""
        return {
            "n_steps": self.n_steps,
            "lr": 3e-3,
            "lr_warm_up_steps": self.n_steps // 40,
            "lr_decay_steps": 3 * self.n_steps // 10,
            "dead_feature_window": max(1, self.n_steps // 10),
        }

    def config(self, d_in: int, d_out: int, *, seed: int, strength: float) -> ToyConfig:
        """Of the transcoder."""
        architecture, objective = ARCHITECTURES[self.architecture], OBJECTIVES[self.objective]
        own = architecture.secant_coefficient
        return architecture.config(
            d_in=d_in,
            d_out=d_out,
            d_sae=N_FEATURES,
            skip=self.skip,
            jacobian={**dict(objective.jacobian), "seed": seed},
            jacobian_coefficient=own if objective.coefficient is None else objective.coefficient,
            jacobian_warm_up_steps=self.n_steps // 8,
            **dict(architecture.fixed),
            **{architecture.swept: int(strength) if getattr(architecture.config, "whole_k", False) else strength},
        )

    def member(self, rows: RowSource, d_out: int, *, seed: int, strength: float) -> ToyMember:
        """What an ensemble trains in `train`'s place."""
        return ToyMember(
            transcoder=self.config(rows.d_in, d_out, seed=seed, strength=strength),
            seed=seed,
            batch_size=BATCH_SIZE,
            rows=rows,
            augmentation=OBJECTIVES[self.objective].augmentation,
        )

    def settings(self) -> dict[str, Any]:
        """All that it is made of, JSON-safe, but the strength, the seed and the widths."""
        config = self.config(1, 1, seed=0, strength=1.0).to_dict()
        objective = OBJECTIVES[self.objective]
        left_out = {"metadata", "d_in", "d_out", "device", ARCHITECTURES[self.architecture].swept}
        return {
            **{name: value for name, value in config.items() if name not in left_out},
            **self.schedule,
            "architecture": self.architecture,
            "batch_size": BATCH_SIZE,
            "augmentation": asdict(objective.augmentation) if objective.augmentation else None,
        }

    def train(self, layer: Layer, inputs: Any, *, seed: int, strength: float) -> TrainingTranscoder[Any]:
        """One transcoder, by `train_transcoder`: step by step what a member of an ensemble is."""
        config, augmentation = (
            self.config(inputs.d_in, inputs.d_out, seed=seed, strength=strength),
            OBJECTIVES[self.objective].augmentation,
        )
        torch.manual_seed(derived_seed(seed, "weights"))
        transcoder = training_transcoder(config if augmentation is None else augmented(config, augmentation))
        return train_transcoder(transcoder, layer, inputs, progress=False, **self.schedule).transcoder
