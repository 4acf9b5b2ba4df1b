"""Jacobian matching: a loss that asks a transcoder to move as its layer moves.

E_v ||J_t(x) v - J_f(x) v||^2, C. Olah, "A Toy Model of Mechanistic (Un)Faithfulness", Transformer Circuits, 2025.
"""

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.display import line
from faithfulness_plugin.jacobian.layer_response import LayerResponse
from faithfulness_plugin.jacobian.linear_region import LinearRegion
from faithfulness_plugin.jacobian.matching_config import JacobianMatchingConfig, as_config
from faithfulness_plugin.jacobian.probes import gaussian
from faithfulness_plugin.layers.derivatives import Layer, layer_output
from faithfulness_plugin.layers.known_layer import LayerInUse
from faithfulness_plugin.seeds import derived_seed


class JacobianMatching:
    """loss = matching(transcoder, layer, x): how differently transcoder and layer move, a scalar with a gradient.

    The mean over rows and probes of ||J_t v - J_f v||^2 (see `estimators` for what each of them compares), times the
    scale of `JacobianMatchingConfig.normalize`.

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
        self.estimator = self.config.build_estimator(own_probe)
        self._generator: torch.Generator | None = None
        self._warned = False
        self._in_use = LayerInUse()
        self.across: torch.distributed.ProcessGroup | None = None
        """The process group whose batch this is a part of: the unit is then the whole batch's. None for one process."""

    def __repr__(self) -> str:
        said = asdict(self.estimator) | {name: getattr(self.config, name) for name in ("jitter", "normalize", "seed")}
        defaults = JacobianMatchingConfig().to_dict()
        changed = {name: value for name, value in said.items() if value != defaults[name] and name != "probe"}
        first = {"estimator": self.config.estimator} | ({"probe": said["probe"]} if "probe" in said else {})
        return line("JacobianMatching", first | changed)

    def __call__(self, transcoder: nn.Module, layer: Layer, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, ""]:
        """Compute the loss at x [..., d_in] for any module and any callable layer, both row-wise."""
        return self.from_targets(transcoder, self.targets(layer, x))

    @torch.no_grad()
    def targets(
        self,
        layer: Layer,
        x: Float[Tensor, "*batch d_in"],
        *,
        y: Float[Tensor, "*batch d_out"] | None = None,
    ) -> LayerResponse:
        """Draw probes and ask the layer for its derivative along them. Can be cached (`DerivativeStore`).

        Args:
            layer: row-wise, [..., d_in] -> [..., d_out].
            x: the rows.
            y: layer(x), where it is known already (the unit needs it when x is jittered).

        Returns:
            Rows (jittered, if so configured), f there, probes, products, step and scale, without a graph.

        Raises:
            ValueError: one single row with `normalize`, whose unit is a variance over rows; a layer that cannot be
                differentiated as the estimator needs it.
        """
        self._require_variance(x)
        self._warn_if_exact_costs_less(x.shape[-1])
        if x.is_inference():
            x = x.clone()  # or the student's backward pass could not save it
        generator, jittered = self._generator_of_share(x.device), self.config.jitter > 0
        rms = _mean(_wide(x).square()).sqrt()
        rms = torch.where(rms > 0, rms, torch.ones_like(rms)).to(x.dtype)  # rows of zeros still get a step
        at = x + self.config.jitter * rms * gaussian(x, 1, generator)[0] if jittered else x
        rows = at
        if self.estimator.pulls_back:
            rows = layer_output(layer, at) if y is None else y
        along = self.estimator.draw_along(rows, generator)
        v = self.estimator.draw(rows, generator) if along is None else along.of(rows)  # [n_probes, ..., d_in or d_out]
        step = torch.ones_like(rms) * self.estimator.step(rms)  # a scalar tensor, for all rows
        asked = self._in_use(layer, at)
        # [..., d_out] and [n_probes, ..., d_product]
        known = None if jittered else y
        y_there, Jv = self.estimator.layer_products(asked, at, v, step, y=known, along=along)
        if not self._in_use.confirms(asked, at, y_there if known is None else None):
            y_there, Jv = self.estimator.layer_products(layer, at, v, step, y=known, along=along)
        if y is None:
            y = layer_output(layer, x) if jittered and self.config.normalize else y_there
        return LayerResponse(at, y_there, v, Jv, step, self._scale(y, Jv), along)

    @torch.no_grad()
    def targets_of(self, response: LayerResponse) -> LayerResponse:
        """Build targets from stored layer responses.

        Args:
            response: rows with f(x), probes and products, as a store gives them.

        Returns:
            The response with this batch's scale.

        Raises:
            ValueError: rows without derivatives; one single row, as `targets`.
        """
        x, y, v, Jv, step, *_ = response
        if v is None or Jv is None:
            raise ValueError("these rows bring no derivatives: read them from the store with the matching's config")
        self._require_variance(x)
        return LayerResponse(x, y, v, Jv, _wide(x.new_ones(())) * step, self._scale(y, Jv))

    def _require_variance(self, x: Tensor) -> None:
        if self.config.normalize and x[..., 0].numel() == 1 and self.across is None:
            raise ValueError(
                f"the unit needs the variance over rows, and x has shape {list(x.shape)}: pass a batch of two rows "
                "or more, or normalize=False"
            )

    def _warn_if_exact_costs_less(self, d_in: int) -> None:
        random_derivatives = not (self.estimator.fixed_probes or self.estimator.finite_step)
        if random_derivatives and self.config.n_probes >= d_in and not self._warned:
            self._warned = True
            warnings.warn(
                f'{self.config.n_probes} probes cost as much as the {d_in} of estimator="exact", which has no '
                "variance: use that",
                stacklevel=3,
            )

    def _scale(self, y: Tensor, Jv: Tensor) -> Tensor:
        """Compute E||f - E f||^2 / E||J_f v||^2 with `normalize`, else 1."""
        if not self.config.normalize:
            return _wide(y.new_ones(()))
        y = _wide(y)
        rows = y.reshape(-1, y.shape[-1])  # [rows, d_out]
        mean = self._over_processes(rows.sum(0) / max(1, len(rows)))  # E f, [d_out]
        # E||f - E f||^2 and E||J_f v||^2, means over rows (and probes)
        variance, energy = _mean((y - mean).square().sum(-1)), self._mean_energy(Jv)
        # both at once over the processes, whose shares of the batch are equal
        variance, energy = self._over_processes(torch.stack([variance, energy]))
        # a layer that does not move asks for nothing
        return torch.where(energy > 0, variance / energy, torch.zeros_like(energy))

    def _over_processes(self, values: Tensor) -> Tensor:
        """Average values over the processes that share a batch in equal parts."""
        if self.across is None:
            return values
        torch.distributed.all_reduce(values, group=self.across)
        return values / torch.distributed.get_world_size(self.across)

    def from_targets(
        self,
        transcoder: nn.Module,
        targets: LayerResponse,
        *,
        gate: Float[Tensor, "*batch d_sae"] | LinearRegion | None = None,
    ) -> Float[Tensor, ""]:
        """Compute the loss against targets made before.

        Args:
            transcoder: the student, any nn.Module.
            targets: what `targets` or `targets_of` returned.
            gate: the feature activations [..., d_sae] of a forward pass already made at `targets.x` (so: without
                jitter), or its `linear_region`, to encode nothing twice. For classes that `linear_region` knows.

        Returns:
            The loss, a scalar, with a graph to the transcoder's parameters.

        Raises:
            ValueError: transcoder and targets differ in width, device or (for a class that does not cast by itself)
                dtype; a Jacobian without a gradient to the transcoder's parameters.
        """
        x, _, v, of_layer, step, scale, along = targets.trainable()
        if v is None or of_layer is None or scale is None:
            raise ValueError("these are no targets: make them by `targets`, or of a stored response by `targets_of`")
        _check_fits(transcoder, x)
        Jv = self.estimator.transcoder_products(transcoder, x, v, step, gate=gate, along=along)
        if Jv.shape != of_layer.shape:
            raise ValueError(
                f"the transcoder's output has d_out={Jv.shape[-1]} and the layer's has {of_layer.shape[-1]}: "
                "give the transcoder the layer's d_out"
            )
        if torch.is_grad_enabled() and not Jv.requires_grad and any(p.requires_grad for p in transcoder.parameters()):
            raise ValueError(
                f"the Jacobian of {type(transcoder).__name__} has no gradient to its parameters, so matching could not "
                "train it: take .detach(), torch.no_grad() and non-differentiable activations out of its forward pass"
            )
        return self._mean_energy(Jv - of_layer) * scale  # both [n_probes, ..., d_product]

    def _mean_energy(self, Jv: Tensor) -> Tensor:
        """Average ||Jv||^2 over rows and over random probes, or sum it over fixed ones."""
        energy = _mean(_wide(Jv).square().sum(-1))  # over [n_probes, ...]
        return energy * len(Jv) if self.estimator.fixed_probes else energy  # mean over n probes to their sum

    def relative_error(self, loss: Float[Tensor, ""], targets: LayerResponse) -> Float[Tensor, ""]:
        """Express a loss of `from_targets` as a fraction of what losing the whole Jacobian would cost.

        Args:
            loss: what `from_targets` returned.
            targets: the targets that it was computed against.

        Returns:
            E||J_t v - J_f v||^2 / E||J_f v||^2: 0 for a perfect match, 1 for J_t = 0.
        """
        scale, Jv = cast(Tensor, targets.scale), cast(Tensor, targets.Jv)
        return loss / (scale * self._mean_energy(Jv))  # the scale cancels

    def _generator_of_share(self, device: torch.device) -> torch.Generator:
        """Return a generator for this process's rows. The common one advances alike in all of them, so that the state
        of the first one is that of all."""
        common = self.generator(device)
        if self.across is None:
            return common
        seed = int(torch.randint(2**62, (), generator=common, device=device))
        rank = torch.distributed.get_rank(self.across)
        return torch.Generator(device).manual_seed(derived_seed(seed, f"process {rank}"))

    def state_dict(self) -> dict[str, Any]:
        """Return the random generator's state, so that a resumed run draws the same probes.

        Returns:
            The state and the generator's device by name; empty before the first draw.
        """
        if self._generator is None:
            return {}
        return {"device": str(self._generator.device), "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the random generator, on the device where it was saved.

        Args:
            state: what `state_dict` returned.
        """
        self._generator = None
        if state:
            self.generator(torch.device(state["device"])).set_state(state["generator"].cpu())

    def generator(self, device: torch.device) -> torch.Generator:
        """Return the generator on the device of the inputs; it starts at the seed on first use, and on another device.

        Args:
            device: the device of the inputs.

        Returns:
            The generator of probes and jitter, which is the same one from call to call.
        """
        if self._generator is None or self._generator.device != device:
            self._generator = torch.Generator(device).manual_seed(derived_seed(self.config.seed, "probes"))
        return self._generator


def _check_fits(transcoder: nn.Module, x: Tensor) -> None:
    """Raise ValueError for weights on another device than the inputs."""
    for name, weight in transcoder.named_parameters():
        if weight.device != x.device:
            raise ValueError(
                f"the inputs are on {x.device} and the transcoder's {name} on {weight.device}: move one of them"
            )


def _wide(values: Tensor) -> Tensor:
    """Cast to single precision at least: sums of half-precision squares lose too much."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _mean(values: Tensor) -> Tensor:
    """Average values, with 0 for none: a batch may have no rows."""
    return values.sum() / max(1, values.numel())
