"""Jacobian matching: a loss that asks a transcoder to move as its layer moves.

E_v ||J_t(x) v - J_f(x) v||^2, C. Olah, "A Toy Model of Mechanistic (Un)Faithfulness", Transformer Circuits, 2025.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import inf
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.jacobian.closed_form import transcoder_jvp
from faithfulness_plugin.jacobian.secant import layer_secant, transcoder_secant
from faithfulness_plugin.layer import Layer, layer_jvp
from faithfulness_plugin.probes import ISOTROPIC, PROBES, Probe, gaussian
from faithfulness_plugin.seeds import derived_seed

ESTIMATORS = ("jvp", "secant")


@dataclass(frozen=True)
class JacobianMatchingConfig:
    """What is matched, and along which directions. Every field is JSON-safe."""

    estimator: str = "jvp"
    """"jvp": the derivative Jv; "secant": the change over a step of finite length."""
    probe: str = "rademacher"
    """Directions: "rademacher", "gaussian", "sphere" (isotropic); "pair", "difference" (within the batch)."""
    n_probes: int = 1
    """Directions per row and step."""
    radius: float = 0.5
    """The secant's step: a multiple of the batch's rms coordinate (isotropic probes), a fraction of v (data probes)."""
    jitter: float = 0.0
    """Gaussian noise on x before the comparison, a multiple of the same rms. For layers with kinks in their data:
    |x| at x = 0 has no derivative, and matching the one that autograd returns there fights the layer."""
    normalize: bool = True
    """Divide the error by the batch's E||J_f v||^2 and multiply it by E||f - E f||^2: a coefficient of 1 then says that
    losing the whole Jacobian costs as much as losing the whole output, for any layer."""
    seed: int = 0
    """Seeds the probes and the jitter."""

    def __post_init__(self) -> None:
        _require(self.estimator in ESTIMATORS, f"estimator={self.estimator!r} is unknown: choose one of {ESTIMATORS}")
        _require(self.probe in PROBES, f"probe={self.probe!r} is unknown: choose one of {tuple(PROBES)}")
        _require(
            isinstance(self.n_probes, int) and self.n_probes >= 1,
            f"n_probes={self.n_probes}: a whole number of probes, at least one, is needed",
        )
        _require(0 < self.radius < inf, f"radius={self.radius}: the secant's step must be positive and finite")
        _require(0 <= self.jitter < inf, f"jitter={self.jitter}: a standard deviation is not negative, and finite")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class JacobianTargets(NamedTuple):
    """The layer's side of one comparison: all that the loss needs once the layer is gone."""

    x: Float[Tensor, "*batch d_in"]
    """Where the Jacobians are compared, [..., d_in] (jittered, if so configured)."""
    v: Float[Tensor, "n_probes *batch d_in"]
    """The probes, [n_probes, ..., d_in]."""
    Jv: Float[Tensor, "n_probes *batch d_out"]
    """The layer's derivative along them, [n_probes, ..., d_out]."""
    step: Float[Tensor, ""]
    """The secant's step (unused by "jvp")."""
    scale: Float[Tensor, ""]
    """What the squared error is multiplied by: E||f - E f||^2 / E||J_f v||^2, or 1."""


class JacobianMatching:
    """loss = matching(transcoder, layer, x): how differently transcoder and layer move, a scalar with a gradient.

    mean over rows and probes of ||J_t v - J_f v||^2 * scale, with scale as in `JacobianMatchingConfig.normalize`.
    Isotropic probes make the mean an unbiased estimate of ||J_t - J_f||_F^2.

    Args:
        config: a `JacobianMatchingConfig`, its dict, or its fields as keywords. As a keyword, `probe` may also be
            a callable (x, n_probes, generator) -> v [n_probes, ..., d_in]; its radius counts as a fraction of v.
    """

    def __init__(self, config: JacobianMatchingConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        own_probe = options.pop("probe") if callable(options.get("probe")) else None
        if config is not None and options:
            raise ValueError("pass either a config or its fields, not both")
        self.config = as_config(options if config is None else config)
        self._probe: Probe = own_probe or PROBES[self.config.probe]
        self._isotropic = self._probe in ISOTROPIC.values()
        self._generator: torch.Generator | None = None

    def __call__(self, transcoder: nn.Module, layer: Layer, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, ""]:
        """The loss at x [..., d_in] for any module and any callable layer, both row-wise."""
        return self.from_targets(transcoder, self.targets(layer, x))

    @torch.no_grad()
    def targets(
        self, layer: Layer, x: Float[Tensor, "*batch d_in"], *, y: Float[Tensor, "*batch d_out"] | None = None
    ) -> JacobianTargets:
        """Draws probes and asks the layer for its derivative along them. Can be cached.

        Args:
            layer: row-wise, [..., d_in] -> [..., d_out].
            x: [..., d_in].
            y: layer(x), where it is known already (the unit needs it when x is jittered).

        Raises:
            ValueError: fewer than two rows with `normalize`, whose unit is a variance over rows.
        """
        if self.config.normalize and x[..., 0].numel() < 2:
            raise ValueError(
                f"the unit needs the variance over rows, and x has shape {list(x.shape)}: pass a batch of two rows "
                "or more, or normalize=False"
            )
        if x.is_inference():
            x = x.clone()  # or the student's backward pass could not save it
        generator = self.generator(x.device)
        rms = x.square().mean().sqrt()
        rms = torch.where(rms > 0, rms, torch.ones_like(rms))
        clean = x
        if self.config.jitter > 0:
            x = x + self.config.jitter * rms * gaussian(x, 1, generator)[0]
        v = self._probe(x, self.config.n_probes, generator)
        step = self.config.radius * (rms if self._isotropic else torch.ones_like(rms))
        if self.config.estimator == "jvp":
            y_here, Jv = layer_jvp(layer, x, v)
        else:
            y_here, Jv = layer_secant(layer, x, v, step)
        scale = torch.ones_like(rms)
        if self.config.normalize:
            if y is None:
                y = layer(clean) if self.config.jitter > 0 else y_here
            variance = (y - _batch_mean(y)).square().sum(-1).mean()
            energy = Jv.square().sum(-1).mean()
            scale = torch.where(energy > 0, variance / energy, torch.zeros_like(energy))
        return JacobianTargets(x, v, Jv, step, scale)

    def from_targets(
        self, transcoder: nn.Module, targets: JacobianTargets, *, gate: Float[Tensor, "*batch d_sae"] | None = None
    ) -> Float[Tensor, ""]:
        """The loss against targets made before.

        Args:
            gate: the feature activations [..., d_sae] of a forward pass already made at `targets.x` (so: without
                jitter), to encode nothing twice. For classes that `transcoder_jvp` knows.
        """
        if self.config.estimator == "jvp":
            _, Jv = transcoder_jvp(transcoder, targets.x, targets.v, gate=gate)
        else:
            _, Jv = transcoder_secant(transcoder, targets.x, targets.v, targets.step, gate=gate)
        if Jv.shape != targets.Jv.shape:
            raise ValueError(
                f"the transcoder's output has d_out={Jv.shape[-1]} and the layer's has {targets.Jv.shape[-1]}: "
                "give the transcoder the layer's d_out"
            )
        return (Jv - targets.Jv).square().sum(-1).mean() * targets.scale

    def state_dict(self) -> dict[str, Any]:
        """The random generator's state, so that a resumed run draws the same probes."""
        if self._generator is None:
            return {}
        return {"device": str(self._generator.device), "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._generator = None
        if state:
            self.generator(torch.device(state["device"])).set_state(state["generator"].cpu())

    def generator(self, device: torch.device) -> torch.Generator:
        """The generator lives where the inputs are; it starts at the seed on first use."""
        if self._generator is None or self._generator.device != device:
            self._generator = torch.Generator(device).manual_seed(derived_seed(self.config.seed, "probes"))
        return self._generator


def as_config(config: JacobianMatchingConfig | Mapping[str, Any]) -> JacobianMatchingConfig:
    """The config itself, or one made of a dict. Raises ValueError for a field that does not exist."""
    if isinstance(config, JacobianMatchingConfig):
        return config
    _require(isinstance(config, Mapping), f"jacobian={config!r}: pass a JacobianMatchingConfig or a dict of its fields")
    known = [field.name for field in fields(JacobianMatchingConfig)]
    unknown = sorted(set(config) - set(known))
    _require(not unknown, f"JacobianMatching has no option {', '.join(unknown)}: choose from {', '.join(known)}")
    return JacobianMatchingConfig(**config)


def _batch_mean(y: Tensor) -> Tensor:
    return y.reshape(-1, y.shape[-1]).mean(0)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
