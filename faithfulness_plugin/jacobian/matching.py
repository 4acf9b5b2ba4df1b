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
from faithfulness_plugin.jacobian.loss_unit import LossUnit, mean, wide
from faithfulness_plugin.jacobian.matching_config import JacobianMatchingConfig, as_config, of_one_layer
from faithfulness_plugin.jacobian.probes import gaussian
from faithfulness_plugin.layers.derivatives import Layer, layer_output
from faithfulness_plugin.layers.known_layer import LayerInUse
from faithfulness_plugin.layers.row_differences import RowDifferences
from faithfulness_plugin.seeds import derived_seed


class JacobianMatching(LossUnit):
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
        self.config = of_one_layer(as_config(options if config is None else config))
        self.estimator = self.config.build_estimator(own_probe)
        self._generator: torch.Generator | None = None
        self._warned = False
        self._in_use = LayerInUse()

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
        # one number for the batch: the length of a coordinate
        rms = mean(wide(x).square()).sqrt()
        rms = torch.where(rms > 0, rms, torch.ones_like(rms)).to(x.dtype)  # rows of zeros still get a step
        at = x + self.config.jitter * rms * gaussian(x, 1, generator)[0] if jittered else x
        # what probes are directions of: x [..., d_in], or f(x) [..., d_out]
        rows = at
        if self.estimator.pulls_back:
            rows = layer_output(layer, at) if y is None else y
        along = self.estimator.draw_along(rows, generator)
        v = self.estimator.draw(rows, generator) if along is None else along.of(rows)  # [n_probes, ..., d_in or d_out]
        step = torch.ones_like(rms) * self.estimator.step(rms)  # a scalar tensor, for all rows
        # [..., d_out] and [n_probes, ..., d_product]
        y_there, Jv = self.layer_products(layer, at, v, step, y=None if jittered else y, along=along)
        if y is None:
            y = layer_output(layer, x) if jittered and self.config.normalize else y_there
        return LayerResponse(at, y_there, v, Jv, step, self.scale(y, Jv), along)

    def layer_products(
        self,
        layer: Layer,
        x: Float[Tensor, "*batch d_in"],
        v: Float[Tensor, "n_probes *batch d_probe"],
        step: Tensor | float = 1.0,
        *,
        y: Float[Tensor, "*batch d_out"] | None = None,
        along: RowDifferences | None = None,
    ) -> tuple[Float[Tensor, "*batch d_out"], Float[Tensor, "n_products *batch d_product"]]:
        """Ask the layer for f(x) and its products along directions, by its weights where they are known.

        Args:
            layer: as in `targets`.
            x: the rows.
            v: the directions.
            step: as in `Estimator.layer_products`.
            y: f(x), where it is known.
            along: which rows of x the directions are differences of, where they are.

        Returns:
            f(x), and one product per direction and row.
        """
        # [..., d_out] and [n_probes, ..., d_product], d_product being d_in where products are pulled back
        asked = self._in_use(layer, x)
        there, Jv = self.estimator.layer_products(asked, x, v, step, y=y, along=along)
        if self._in_use.confirms(asked, x, there if y is None else None):
            return there, Jv
        return self.estimator.layer_products(layer, x, v, step, y=y, along=along)

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
        # the unit is this batch's, [] as the step is
        return LayerResponse(x, y, v, Jv, wide(x.new_ones(())) * step, self.scale(y, Jv))

    def _require_variance(self, x: Tensor) -> None:
        # x [..., d_in] has one row
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
            raise ValueError(
                "these are not targets: make them with `targets`, or from a stored response with `targets_of`"
            )
        _check_fits(transcoder, x)
        # v [n_probes, ..., d_probe] to J_t v [n_probes, ..., d_product], of_layer's shape
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
        return self.mean_energy(Jv - of_layer) * scale  # both [n_probes, ..., d_product]

    def relative_error(self, loss: Float[Tensor, ""], targets: LayerResponse) -> Float[Tensor, ""]:
        """Express a loss of `from_targets` as a fraction of what losing the whole Jacobian would cost.

        Args:
            loss: what `from_targets` returned.
            targets: the targets that it was computed against.

        Returns:
            E||J_t v - J_f v||^2 / E||J_f v||^2: 0 for a perfect match, 1 for J_t = 0.
        """
        # the products [n_probes, ..., d_product] of the layer alone
        scale, Jv = cast(Tensor, targets.scale), cast(Tensor, targets.Jv)
        return loss / (scale * self.mean_energy(Jv))  # the scale cancels

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
