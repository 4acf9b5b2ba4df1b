"""The methods that come with the benchmark: five architectures, with and without skip, five terms."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from faithfulness_plugin.benchmarks.note.trainer.augmentation import Augmentation

if TYPE_CHECKING:  # methods are chosen by their names before torch is loaded
    from faithfulness_plugin.benchmarks.note.trainer.member import ToyConfig, ToyMember
    from faithfulness_plugin.benchmarks.note.trainer.rows import RowSource
    from faithfulness_plugin.layers.derivatives import Layer
    from faithfulness_plugin.transcoders.base import TrainingTranscoder

N_FEATURES, BATCH_SIZE = 64, 256


@dataclass(frozen=True)
class Sweep:
    """A transcoder's architecture, and the field that its sparsity is swept by."""

    architecture: str
    swept: str
    strengths: tuple[float, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    secant_coefficient: float = 1.0
    """Weight of secants in all directions at once, which a transcoder that keeps to a few features cannot follow."""


SWEEPS = {
    "relu_l1": Sweep(
        "standard",
        "sparsity_coefficient",
        (0.01, 0.05, 0.2, 0.8, 3.0),
        {"sparsity": "l1"},
        secant_coefficient=10.0,
    ),
    "relu_tanh": Sweep(
        "standard",
        "sparsity_coefficient",
        (0.01, 0.05, 0.2, 0.6, 2.0),
        secant_coefficient=10.0,
    ),
    "topk": Sweep("topk", "k", (1.0, 2.0, 3.0, 4.0)),
    "batch_topk": Sweep("batch_topk", "k", (1.2, 1.6, 2.2, 3.2)),
    "jumprelu": Sweep(
        "jumprelu",
        "l0_coefficient",
        (0.001, 0.005, 0.025, 0.12),
        {"jumprelu_bandwidth": 0.1, "jumprelu_init_threshold": 0.05},
    ),
}
"""Sweeps by the name of the architecture."""


@dataclass(frozen=True)
class Term:
    """What is matched in addition to the outputs at the rows."""

    jacobian: Mapping[str, Any] = field(default_factory=dict)
    coefficient: float | None = 0.0
    """Weight of the Jacobian term; None for the sweep's own for secants."""
    augmentation: Augmentation | None = None


TERMS = {
    "none": Term(),
    "jvp": Term({"estimator": "jvp", "probe": "rademacher", "jitter": 0.5}, 10.0),
    "secant": Term({"estimator": "secant", "probe": "rademacher", "radius": 0.5}, None),
    "data": Term({"estimator": "secant", "probe": "difference", "radius": 0.5}, 10.0),
    "augmentation": Term(augmentation=Augmentation("noise", coefficient=1.0, scale=0.5)),
}


@dataclass(frozen=True)
class Baseline:
    """One of the shipped methods. Adam at 3e-3, warmed up over 2.5 % of the steps, with decay over the last 30 %; the
    Jacobian term is warmed up over the first eighth."""

    architecture: str
    term: str = "none"
    skip: bool = False
    n_steps: int = 2000

    @property
    def name(self) -> str:
        """The name on the command line: architecture, "skip" with one, term."""
        return "-".join([self.architecture, *(["skip"] if self.skip else []), self.term])

    @property
    def strengths(self) -> tuple[float, ...]:
        """The sweep's values."""
        return SWEEPS[self.architecture].strengths

    @property
    def schedule(self) -> dict[str, Any]:
        """Arguments of `train_transcoder` and `train_ensemble`."""
        return {
            "n_steps": self.n_steps,
            "lr": 3e-3,
            "lr_warm_up_steps": self.n_steps // 40,
            "lr_decay_steps": 3 * self.n_steps // 10,
            "dead_feature_window": max(1, self.n_steps // 10),
        }

    def config(self, d_in: int, d_out: int, *, seed: int, strength: float) -> "ToyConfig":
        """Build the transcoder's config.

        Args:
            d_in: width of the layer's input.
            d_out: width of its output.
            seed: decides the probes.
            strength: one of `strengths`.

        Returns:
            The config.
        """
        from faithfulness_plugin.transcoders.architectures import ARCHITECTURES

        sweep, term = SWEEPS[self.architecture], TERMS[self.term]
        config_class = ARCHITECTURES[sweep.architecture][0]
        return config_class(
            d_in=d_in,
            d_out=d_out,
            d_sae=N_FEATURES,
            skip=self.skip,
            jacobian={**term.jacobian, "seed": seed},
            jacobian_coefficient=sweep.secant_coefficient if term.coefficient is None else term.coefficient,
            jacobian_warm_up_steps=self.n_steps // 8,
            **sweep.fixed,
            **{sweep.swept: int(strength) if getattr(config_class, "whole_k", False) else strength},
        )

    def member(self, rows: "RowSource", d_out: int, *, seed: int, strength: float) -> "ToyMember":
        """Build the member of an ensemble that becomes the transcoder that `train` returns.

        Args:
            rows: what it learns from.
            d_out: width of the layer's output.
            seed: decides weights, probes and rows.
            strength: one of `strengths`.

        Returns:
            The member.
        """
        from faithfulness_plugin.benchmarks.note.trainer.member import ToyMember

        return ToyMember(
            transcoder=self.config(rows.d_in, d_out, seed=seed, strength=strength),
            seed=seed,
            batch_size=BATCH_SIZE,
            rows=rows,
            augmentation=TERMS[self.term].augmentation,
        )

    def settings(self) -> dict[str, Any]:
        """Collect everything that the method consists of but strength, seed and widths.

        Returns:
            Settings by name, ready for JSON.
        """
        config = self.config(1, 1, seed=0, strength=1.0).to_dict()
        for name in ("metadata", "d_in", "d_out", "device", SWEEPS[self.architecture].swept):
            config.pop(name, None)
        augmentation = TERMS[self.term].augmentation
        return {
            **config,
            **self.schedule,
            "architecture": self.architecture,
            "batch_size": BATCH_SIZE,
            "augmentation": None if augmentation is None else asdict(augmentation),
        }

    def train(self, layer: "Layer", inputs: Any, *, seed: int, strength: float) -> "TrainingTranscoder[Any]":
        """Train one transcoder with `train_transcoder`; its steps are those of the ensemble's member.

        Args:
            layer: the function to replace.
            inputs: endless batches, with d_in and d_out.
            seed: decides weights and probes.
            strength: one of `strengths`.

        Returns:
            The transcoder.
        """
        from faithfulness_plugin.benchmarks.methods.controls import augmented
        from faithfulness_plugin.training.train import train_transcoder
        from faithfulness_plugin.transcoders.seeded import made_with_seed

        config = self.config(inputs.d_in, inputs.d_out, seed=seed, strength=strength)
        augmentation = TERMS[self.term].augmentation
        transcoder = made_with_seed(config if augmentation is None else augmented(config, augmentation), seed)
        return train_transcoder(transcoder, layer, inputs, progress=False, **self.schedule).transcoder
