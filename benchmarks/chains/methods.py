"""The methods that come with the second track: three kinds of transcoders of a chain, with and without a term."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # methods are chosen by their names before torch is loaded
    from faithfulness_plugin.transcoders.cross_layer_config import CrossLayerTrainingTranscoderConfig

N_FEATURES, BATCH_SIZE = 32, 64
N_STEPS = 1500
STRENGTHS = (0.03, 0.1, 0.2, 0.35, 0.6)
"""Coefficients of the tanh penalty."""
KINDS: Mapping[str, Mapping[str, Any]] = {"per_layer": {"bandwidth": 1}, "clt": {}, "clt_tied": {"tied": True}}
"""Fields of the transcoder's config by kind."""


@dataclass(frozen=True)
class ChainTerm:
    """What is matched in addition to what the layers write at the rows."""

    jacobian: Mapping[str, Any] = field(default_factory=dict)
    coefficient: float = 0.0
    """Weight of the Jacobian term, or of outputs at other rows."""
    augmentation: Literal["", "rows", "chain"] = ""
    """"rows": what the layers write at rows with noise of its own at each layer. "chain": at rows that the chain makes
    of a first layer's input with noise."""


JITTERED = {"estimator": "jvp", "probe": "rademacher", "jitter": 0.5}
NOISE = 0.5
"""Standard deviation of the noise of augmentation, a multiple of each layer's rms coordinate, as `jitter` is."""
TERMS = {
    "none": ChainTerm(),
    "own": ChainTerm({**JITTERED, "own": 1.0}, 1.0),
    "direct": ChainTerm({**JITTERED, "own": 0.0, "direct": 1.0}, 1.0),
    "own_direct": ChainTerm({**JITTERED, "own": 1.0, "direct": 1.0}, 1.0),
    "total": ChainTerm({**JITTERED, "own": 1.0, "total": 1.0}, 1.0),
    "augmentation": ChainTerm(coefficient=1.0, augmentation="rows"),
    "augmentation_chain": ChainTerm(coefficient=1.0, augmentation="chain"),
}
"""Terms by name."""


@dataclass(frozen=True)
class ChainMethod:
    """One of the shipped methods: ReLU features with the tanh penalty. Adam at 3e-3, warmed up over 2.5 % of the steps,
    with decay over the last 30 %; the term is warmed up over the first eighth."""

    kind: str
    term: str = "none"
    coefficient: float | None = None
    """What the term is multiplied by; None takes the term's own coefficient."""
    strengths: tuple[float, ...] = STRENGTHS
    n_steps: int = N_STEPS

    @property
    def name(self) -> str:
        """The name on the command line: kind, term."""
        return f"{self.kind}-{self.term}"

    @property
    def weight(self) -> float:
        """The term's coefficient."""
        return TERMS[self.term].coefficient if self.coefficient is None else self.coefficient

    @property
    def schedule(self) -> dict[str, Any]:
        """Arguments of `train_transcoder`."""
        return {
            "n_steps": self.n_steps,
            "lr": 3e-3,
            "lr_warm_up_steps": self.n_steps // 40,
            "lr_decay_steps": 3 * self.n_steps // 10,
        }

    @property
    def rates(self) -> dict[str, Any]:
        """Arguments of `learning_rates`."""
        return {name.removeprefix("lr_"): value for name, value in self.schedule.items()}

    def config(self, d: int, n_layers: int, *, strength: float, seed: int) -> "CrossLayerTrainingTranscoderConfig":
        """Build the transcoder's config.

        Args:
            d: width of each layer.
            n_layers: of the chain.
            strength: one of `strengths`.
            seed: decides the probes.

        Returns:
            The config.
        """
        from faithfulness_plugin.transcoders.cross_layer_config import CrossLayerTrainingTranscoderConfig
        from faithfulness_plugin.transcoders.standard import StandardTrainingTranscoderConfig

        term = TERMS[self.term]
        return CrossLayerTrainingTranscoderConfig(
            n_layers=n_layers,
            per_layer=StandardTrainingTranscoderConfig(d_in=d, d_sae=N_FEATURES, sparsity_coefficient=strength),
            jacobian={**term.jacobian, "seed": seed},
            jacobian_coefficient=self.weight if term.jacobian else 0.0,
            jacobian_warm_up_steps=self.n_steps // 8,
            **KINDS[self.kind],
        )

    def settings(self) -> dict[str, Any]:
        """Collect everything that the method consists of but strength, seed and the chain's size.

        Returns:
            Settings by name, ready for JSON.
        """
        term = TERMS[self.term]
        return {
            **KINDS[self.kind],
            **self.schedule,
            "features_per_layer": N_FEATURES,
            "batch_size": BATCH_SIZE,
            "jacobian": dict(term.jacobian),
            "augmentation": term.augmentation,
            "coefficient": self.weight,
            "noise": NOISE,
        }


OF_KIND = {
    "per_layer": ("none", "own", "total", "augmentation"),
    "clt": tuple(TERMS),
    "clt_tied": ("none", "direct", "total", "augmentation"),
}
"""The terms that each kind is trained with. Per-layer transcoders have nothing that `direct` could punish."""
METHODS = {
    method.name: method for method in (ChainMethod(kind, term) for kind, terms in OF_KIND.items() for term in terms)
}
"""The shipped methods by name."""


def chain_method(
    name: str, n_steps: int, strengths: tuple[float, ...], coefficients: Mapping[str, float]
) -> ChainMethod:
    """Look up a shipped method.

    Args:
        name: its name.
        n_steps: optimizer steps that it is trained for.
        strengths: the sweep.
        coefficients: of terms by name, in the place of their own.

    Returns:
        The method.
    """
    method = METHODS[name]
    return replace(method, n_steps=n_steps, strengths=strengths, coefficient=coefficients.get(method.term))
