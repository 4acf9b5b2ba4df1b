"""Jacobian matching: a loss that asks a transcoder to move as its layer moves.

E_v ||J_t(x) v - J_f(x) v||^2, C. Olah, "A Toy Model of Mechanistic (Un)Faithfulness", Transformer Circuits, 2025.
"""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.jacobian.closed_form import product_only, transcoder_jvp, transcoder_vjp
from faithfulness_plugin.jacobian.exact import EXACT_PROBES
from faithfulness_plugin.jacobian.linear_region import LinearRegion
from faithfulness_plugin.jacobian.matching_config import JacobianMatchingConfig, as_config
from faithfulness_plugin.jacobian.packed_rows import LayerSays
from faithfulness_plugin.jacobian.probes import ISOTROPIC, PROBES, Probe, gaussian
from faithfulness_plugin.jacobian.secant import layer_secant, transcoder_secant
from faithfulness_plugin.layers.derivatives import Layer, layer_jvp, layer_output, layer_vjp
from faithfulness_plugin.seeds import derived_seed


class JacobianTargets(NamedTuple):
    """The layer's side of one comparison: all that the loss needs once the layer is gone."""

    x: Float[Tensor, "*batch d_in"]
    """Where the Jacobians are compared, [..., d_in] (jittered, if so configured)."""
    v: Float[Tensor, "n_probes *batch d_probe"]
    """The probes, [n_probes, ..., d_in]; for "vjp" [n_probes, ..., d_out]."""
    Jv: Float[Tensor, "n_probes *batch d_product"]
    """The layer's derivative along them, [n_probes, ..., d_out]; for "vjp" J^T u, [n_probes, ..., d_in]."""
    step: Float[Tensor, ""]
    """The secant's step (unused by the others)."""
    scale: Float[Tensor, ""]
    """What the squared error is multiplied by: E||f - E f||^2 / E||J_f v||^2, or 1."""
    y: Float[Tensor, "*batch d_out"]
    """f(x), which came with the derivative."""

    def to(self, dtype: torch.dtype) -> "JacobianTargets":
        """Every tensor in this dtype."""
        return JacobianTargets(*(tensor.to(dtype) for tensor in self))

    def trainable(self) -> "JacobianTargets":
        """Themselves, or copies where they were made in inference mode, which no backward pass could save."""
        if torch.is_inference_mode_enabled():
            return self
        return JacobianTargets(*(tensor.clone() if tensor.is_inference() else tensor for tensor in self))


class JacobianMatching:
    """loss = matching(transcoder, layer, x): how differently transcoder and layer move, a scalar with a gradient.

    The mean over rows and probes of ||J_t v - J_f v||^2, times the scale of `JacobianMatchingConfig.normalize`.
    Isotropic probes make the mean an unbiased estimate of ||J_t - J_f||_F^2, of either side: E_v ||A v||^2 =
    E_u ||A^T u||^2. The estimator "exact" is that mean itself, as a sum over d_in fixed probes (data probes: over the
    columns of a square root of their second moment).

    Args:
        config: a `JacobianMatchingConfig`, its dict, or its fields as keywords. As a keyword, `probe` may also be
            a callable (x, n_probes, generator) -> v [n_probes, ..., d_in], for the estimators "jvp" and "secant"; its
            radius counts as a fraction of v.
    """

    def __init__(self, config: JacobianMatchingConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        own_probe = options.pop("probe") if callable(options.get("probe")) else None
        if config is not None and options:
            raise ValueError("pass either a config or its fields, not both")
        self.config = as_config(options if config is None else config)
        if own_probe is not None and self.config.estimator not in ("jvp", "secant"):
            raise ValueError(
                f'estimator="{self.config.estimator}" draws its own directions: name one of {tuple(PROBES)} as probe, '
                'or use estimator="jvp" or "secant"'
            )
        self._probe: Probe = own_probe or PROBES[self.config.probe]
        self._isotropic = self._probe in ISOTROPIC.values()
        self._generator: torch.Generator | None = None
        self._told = False
        self.across: Any = None
        """The process group whose batch this is a part of: the unit is then the whole batch's. None for one process."""

    def __call__(self, transcoder: nn.Module, layer: Layer, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, ""]:
        """The loss at x [..., d_in] for any module and any callable layer, both row-wise."""
        return self.from_targets(transcoder, self.targets(layer, x))

    @torch.no_grad()
    def targets(
        self,
        layer: Layer,
        x: Float[Tensor, "*batch d_in"],
        *,
        y: Float[Tensor, "*batch d_out"] | None = None,
    ) -> JacobianTargets:
        """Draws probes and asks the layer for its derivative along them. Can be cached (`DerivativeStore`).

        Args:
            layer: row-wise, [..., d_in] -> [..., d_out].
            x: [..., d_in].
            y: layer(x), where it is known already (the unit needs it when x is jittered).

        Raises:
            ValueError: one single row with `normalize`, whose unit is a variance over rows; a layer that cannot be
                differentiated as the estimator needs it.
        """
        self._require_variance(x)
        if x.is_inference():
            x = x.clone()  # or the student's backward pass could not save it
        generator = self.generator(x.device)
        rms = _mean(_wide(x).square()).sqrt()
        rms = torch.where(rms > 0, rms, torch.ones_like(rms)).to(x.dtype)
        clean = x
        if self.config.jitter > 0:
            x = x + self.config.jitter * rms * gaussian(x, 1, generator)[0]
        step = self.config.radius * (rms if self._isotropic else torch.ones_like(rms))
        y_here, v, Jv = self._products(layer, x, y, step, generator)
        if y is None and self.config.normalize:
            y = layer_output(layer, clean) if self.config.jitter > 0 else y_here
        return JacobianTargets(x, v, Jv, step, self._scale(y_here if y is None else y, Jv), y_here)

    @torch.no_grad()
    def targets_of(self, says: LayerSays) -> JacobianTargets:
        """The same of what the layer said before. Raises ValueError where it was asked for no derivative, or as
        `targets` for a single row."""
        x, y, v, Jv, step = says
        if v is None or Jv is None:
            raise ValueError("these rows bring no derivatives: read them from the store with the matching's config")
        self._require_variance(x)
        return JacobianTargets(x, v, Jv, _wide(x.new_ones(())) * step, self._scale(y, Jv), y)

    def _require_variance(self, x: Tensor) -> None:
        if self.config.normalize and x[..., 0].numel() == 1 and self.across is None:
            raise ValueError(
                f"the unit needs the variance over rows, and x has shape {list(x.shape)}: pass a batch of two rows "
                "or more, or normalize=False"
            )

    def _scale(self, y: Tensor, Jv: Tensor) -> Tensor:
        """E||f - E f||^2 / E||J_f v||^2 with `normalize`, else 1."""
        if not self.config.normalize:
            return _wide(y.new_ones(()))
        y = _wide(y)
        mean = self._over_processes(_mean_row(y))
        variance, energy = _mean((y - mean).square().sum(-1)), self._mean_energy(Jv)
        variance, energy = self._over_processes(torch.stack([variance, energy]))
        return torch.where(energy > 0, variance / energy, torch.zeros_like(energy))

    def _over_processes(self, values: Tensor) -> Tensor:
        """Their mean over the processes that share a batch in equal parts."""
        if self.across is None:
            return values
        torch.distributed.all_reduce(values, group=self.across)
        return values / torch.distributed.get_world_size(self.across)

    def _products(
        self, layer: Layer, x: Tensor, y: Tensor | None, step: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(f(x), the probes, the layer's derivative along them)."""
        estimator, n_probes = self.config.estimator, self.config.n_probes
        if estimator in ("jvp", "vjp") and n_probes >= x.shape[-1] and not self._told:
            self._told = True
            warnings.warn(
                f'{n_probes} probes cost as much as the {x.shape[-1]} of estimator="exact", which has no variance: '
                "use that",
                stacklevel=3,
            )
        if estimator == "exact":
            v = EXACT_PROBES[self.config.probe](x)
        elif estimator == "vjp":
            v = self._probe(y if y is not None else layer_output(layer, x), n_probes, generator)
        else:
            v = self._probe(x, n_probes, generator)
        known = y if self.config.jitter == 0 else None
        y_here, Jv = layer_products(self.config, layer, x, v, step, y=known)
        return y_here, v, Jv

    def from_targets(
        self,
        transcoder: nn.Module,
        targets: JacobianTargets,
        *,
        gate: Float[Tensor, "*batch d_sae"] | LinearRegion | None = None,
    ) -> Float[Tensor, ""]:
        """The loss against targets made before.

        Args:
            gate: the feature activations [..., d_sae] of a forward pass already made at `targets.x` (so: without
                jitter), or its `linear_region`, to encode nothing twice. For classes that `linear_region` knows.

        Raises:
            ValueError: transcoder and targets differ in width, device or (for a class that does not cast by itself)
                dtype; a Jacobian without a gradient to the transcoder's parameters.
        """
        targets = targets.trainable()
        x, v, _, step, *_ = targets
        _check_fits(transcoder, x)
        options = {} if self.config.gate_bandwidth is None else {"gate_bandwidth": self.config.gate_bandwidth}
        if self.config.estimator == "secant":
            Jv = transcoder_secant(transcoder, x, v, step, central=self.config.central, gate=gate)[1]
        elif self.config.estimator == "vjp":
            Jv = product_only(transcoder_vjp, transcoder, x, v, gate=gate, **options)
        else:
            Jv = product_only(transcoder_jvp, transcoder, x, v, gate=gate, **options)
        if Jv.shape != targets.Jv.shape:
            raise ValueError(
                f"the transcoder's output has d_out={Jv.shape[-1]} and the layer's has {targets.Jv.shape[-1]}: "
                "give the transcoder the layer's d_out"
            )
        if torch.is_grad_enabled() and not Jv.requires_grad and any(p.requires_grad for p in transcoder.parameters()):
            raise ValueError(
                f"the Jacobian of {type(transcoder).__name__} has no gradient to its parameters, so matching could not "
                "train it: take .detach(), torch.no_grad() and non-differentiable activations out of its forward pass"
            )
        return self._mean_energy(Jv - targets.Jv) * targets.scale

    def _mean_energy(self, Jv: Tensor) -> Tensor:
        """||Jv||^2, a mean over rows and a mean over random, or a sum over fixed probes."""
        energy = _mean(_wide(Jv).square().sum(-1))
        return energy * len(Jv) if self.config.estimator == "exact" else energy

    def relative_error(self, loss: Float[Tensor, ""], targets: JacobianTargets) -> Float[Tensor, ""]:
        """A loss of `from_targets` as a fraction of what losing the whole Jacobian would cost."""
        return loss / (targets.scale * self._mean_energy(targets.Jv))

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


def layer_products(
    config: JacobianMatchingConfig,
    layer: Layer,
    x: Float[Tensor, "*batch d_in"],
    v: Float[Tensor, "n_probes *batch d_probe"],
    step: Float[Tensor, ""] | float,
    *,
    y: Float[Tensor, "*batch d_out"] | None = None,
) -> tuple[Float[Tensor, "*batch d_out"], Float[Tensor, "n_probes *batch d_product"]]:
    """(f(x), what the estimator compares along the probes): J_f v, J_f^T v, or the secant's quotient. No graph.

    `y`: f(x), where it is known; derivatives bring it by themselves.
    """
    if config.estimator == "secant":
        return layer_secant(layer, x, v, step, central=config.central, y=y)
    return layer_vjp(layer, x, v) if config.estimator == "vjp" else layer_jvp(layer, x, v)


def _check_fits(transcoder: nn.Module, x: Tensor) -> None:
    """Raises ValueError for weights on another device than the inputs."""
    for name, weight in transcoder.named_parameters():
        if weight.device != x.device:
            raise ValueError(
                f"the inputs are on {x.device} and the transcoder's {name} on {weight.device}: move one of them"
            )


def _wide(values: Tensor) -> Tensor:
    """In single precision at least: sums of half-precision squares lose too much."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _mean(values: Tensor) -> Tensor:
    """0 for nothing at all: a batch may have no rows."""
    return values.sum() / max(1, values.numel())


def _mean_row(y: Tensor) -> Tensor:
    rows = y.reshape(-1, y.shape[-1])
    return rows.sum(0) / max(1, len(rows))
