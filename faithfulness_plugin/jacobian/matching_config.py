"""The settings of Jacobian matching."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import inf
from typing import TYPE_CHECKING, Any

from faithfulness_plugin.jacobian.estimators import ESTIMATORS

if TYPE_CHECKING:
    from faithfulness_plugin.jacobian.estimators.base import Estimator
    from faithfulness_plugin.jacobian.probes import Probe

ISOTROPIC = ("rademacher", "gaussian", "sphere")
"""Names of the probes that point everywhere alike."""
DATA = ("pair", "difference")
"""Names of the probes that point where the inputs vary."""
DEFAULT_PROBES = {"jvp": "pair", "secant": "pair"}
"""The names of the default probes by estimator, where they are not "rademacher"."""
CROSS_LAYER = {"own": 1.0, "direct": 0.0, "total": 0.0}
"""The weights of the terms of cross-layer transcoders, and their defaults."""
SHIPPED = ("jvp", "vjp", "secant", "exact")
"""Estimators whose refusals are known here, without their classes."""


@dataclass(frozen=True)
class JacobianMatchingConfig:
    """The estimator of Jacobian matching, its probes and its unit. Every field is JSON-safe."""

    estimator: str = "jvp"
    """"jvp": the derivative J v; "vjp": J^T u, for layers without forward-mode rules; "secant": the change over a step
    of finite length; "exact": the mean over all directions, without variance, at the cost of d_in of them."""
    probe: str | None = None
    """Directions: "rademacher", "gaussian", "sphere" (isotropic); "pair", "difference" (within the batch). None: "pair"
    for "jvp" and "secant", at the price of a gather, and ahead of the others on layers of language models; "rademacher"
    for other estimators."""
    n_probes: int = 1
    """Directions per row and step; they share one gate computation. "exact" takes all there are instead."""
    radius: float = 0.5
    """The secant's step: a multiple of the batch's rms coordinate (isotropic probes), a fraction of v (data probes)."""
    central: bool = False
    """The secant from x - step v to x + step v, rather than from x."""
    jitter: float = 0.0
    """Gaussian noise on x before the comparison, a multiple of the same rms. For layers with kinks in their data:
    |x| at x = 0 has no derivative, and matching the one that autograd returns there fights the layer."""
    gate_bandwidth: float | None = None
    """None: gates are constants to the term, and its gradient to b_enc and thresholds is exactly zero. A width: the
    gates are straight-through over it (SAELens's `jumprelu_bandwidth`), so that the term trains those too. The secant
    does so by itself."""
    normalize: bool = True
    """Divide the error by the batch's E||J_f v||^2 and multiply it by E||f - E f||^2: a coefficient of 1 then says that
    losing the whole Jacobian costs as much as losing the whole output, for any layer."""
    seed: int = 0
    """Seeds the probes and the jitter."""
    own: float = 1.0
    """Of cross-layer transcoders: weight of the match of each layer's own derivative (docs/cross-layer.md)."""
    direct: float = 0.0
    """Of cross-layer transcoders: weight of the penalty on partial derivatives that the chain of layers does not have,
    of what a layer writes by what an earlier one reads."""
    total: float = 0.0
    """Of cross-layer transcoders: weight of the match of total derivatives across layers of a chain."""

    def __post_init__(self) -> None:
        names, width = tuple(ESTIMATORS), self.gate_bandwidth
        weights = {name: getattr(self, name) for name in CROSS_LAYER}
        if self.probe is None:
            object.__setattr__(self, "probe", DEFAULT_PROBES.get(self.estimator, "rademacher"))
        for holds, message in (
            (self.estimator in names, f"estimator={self.estimator!r} is unknown: choose one of {names}"),
            (
                _is_whole(self.n_probes, 1),
                f"n_probes={self.n_probes}: a whole number of probes, at least one, is needed",
            ),
            (_is_positive(self.radius), f"radius={self.radius}: the secant's step must be positive and finite"),
            (
                _is_positive(self.jitter, or_zero=True),
                f"jitter={self.jitter}: a standard deviation is not negative, and finite",
            ),
            (isinstance(self.central, bool), f"central={self.central!r}: choose True or False"),
            (isinstance(self.normalize, bool), f"normalize={self.normalize!r}: choose True or False"),
            (_is_whole(self.seed, 0), f"seed={self.seed!r}: a whole number from 0 on is needed"),
            *(
                (_is_positive(weight, or_zero=True), f"{name}={weight!r}: a weight is not negative, and finite")
                for name, weight in weights.items()
            ),
            (
                any(weights.values()),
                "own, direct and total are all 0, which leaves no term: use jacobian_coefficient=0",
            ),
            (
                width is None or _is_positive(width),
                f"gate_bandwidth={width}: a width is positive and finite; None for constant gates",
            ),
            # what the shipped estimators refuse, too: here it is known before torch is loaded
            (
                self.estimator not in SHIPPED or self.probe in (*ISOTROPIC, *DATA),
                f"probe={self.probe!r} is unknown: choose one of {(*ISOTROPIC, *DATA)}",
            ),
            (
                self.estimator != "vjp" or self.probe in ISOTROPIC,
                f'estimator="vjp" draws directions of the output, and probe={self.probe!r} are directions of the '
                f'input: choose one of {ISOTROPIC}, or estimator="jvp"',
            ),
            (
                self.estimator != "secant" or width is None,
                "the secant trains its gates by itself: leave gate_bandwidth out",
            ),
        ):
            _require(holds, message)
        if self.estimator not in SHIPPED:
            self.build_estimator()  # the class itself says what does not go with it

    def build_estimator(self, probe: "Probe | None" = None) -> "Estimator":
        """Build the estimator with the fields that it reads.

        Args:
            probe: the caller's own probe instead of the named one.

        Returns:
            The estimator.

        Raises:
            ValueError: fields that do not go with it.
        """
        cls = ESTIMATORS[self.estimator]
        options = {field.name: getattr(self, field.name) for field in fields(cls)}
        return cls(**options if probe is None else {**options, "probe": probe})

    @property
    def at_inputs(self) -> bool:
        """Whether the layer's output at the inputs comes with its derivative."""
        return self.jitter == 0 and not ESTIMATORS[self.estimator].pulls_back

    @property
    def of_layer(self) -> dict[str, Any]:
        """The fields that decide what is asked of the layer; the others are the student's, the loss's or a seed."""
        options = asdict(self.build_estimator())
        del options["gate_bandwidth"]
        return {"estimator": self.estimator, **options, "jitter": self.jitter}

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, as JSON takes them.

        Returns:
            All fields, defaults included; those of cross-layer transcoders where they are not the defaults, for files
            from before they existed say the same.
        """
        return {
            name: value for name, value in asdict(self).items() if name not in CROSS_LAYER or CROSS_LAYER[name] != value
        }


def of_one_layer(config: JacobianMatchingConfig) -> JacobianMatchingConfig:
    """Check that a config is of a transcoder of one layer.

    Args:
        config: the config.

    Returns:
        The config itself.

    Raises:
        ValueError: a weight of cross-layer transcoders is set.
    """
    set_here = [name for name, default in CROSS_LAYER.items() if getattr(config, name) != default]
    _require(
        not set_here,
        f"{', '.join(set_here)}: own, direct and total are weights of cross-layer transcoders "
        "(CrossLayerTrainingTranscoder), and a transcoder of one layer has its own derivative alone: leave them out",
    )
    return config


def as_config(config: JacobianMatchingConfig | Mapping[str, Any]) -> JacobianMatchingConfig:
    """Return the config itself, or one made of a dict.

    Args:
        config: a config, or some of its fields by name.

    Returns:
        The config, checked.

    Raises:
        ValueError: a field that does not exist, or a value that does not fit.
    """
    if isinstance(config, JacobianMatchingConfig):
        return config
    _require(isinstance(config, Mapping), f"jacobian={config!r}: pass a JacobianMatchingConfig or a dict of its fields")
    known = [field.name for field in fields(JacobianMatchingConfig)]
    unknown = sorted(set(config) - set(known))
    _require(not unknown, f"JacobianMatching has no option {', '.join(unknown)}: choose from {', '.join(known)}")
    return JacobianMatchingConfig(**config)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_positive(value: Any, or_zero: bool = False) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and (0 < value < inf or (or_zero and value == 0))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
