"""What an ensemble's members share to be computed together, and what may differ between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.benchmarks.note.trainer.member import ToyMember


@dataclass(frozen=True)
class Program:
    """What members must share to be computed together; all else may differ from one to the next."""

    shape: tuple[int, int, int, int]
    """(d_in, d_sae, d_out, batch size)."""
    architecture: str
    sparsity: str | None
    """The penalty's shape; None for no penalty."""
    own_rows: bool = False
    skip: bool = False
    bandwidth: float | None = None
    """JumpReLU's."""
    ranked_by_norm: bool = False
    revives: bool = False
    """Dead features have a loss."""
    estimator: str | None = None
    probe: str = "rademacher"
    n_probes: int = 1
    central: bool = False
    jittered: bool = False
    gate_bandwidth: float | None = None
    normalize: bool = True
    masking: bool = False
    augmentation: str | None = None

    @classmethod
    def of(cls, member: ToyMember) -> "Program":
        config, matching = member.transcoder, member.matching
        shape = (config.d_in, config.d_sae, config.d_out, member.batch_size)
        jacobian = {}
        if member.matched:
            jacobian = {
                **{name: getattr(matching, name) for name in ("estimator", "probe", "n_probes", "normalize")},
                "central": matching.estimator == "secant" and matching.central,
                "jittered": matching.jitter > 0,
                "gate_bandwidth": matching.gate_bandwidth,
            }
        return cls(
            shape,
            config.architecture(),
            getattr(config, "sparsity", getattr(config, "jumprelu_sparsity_loss_mode", None)),
            member.rows is not None,
            config.skip,
            getattr(config, "jumprelu_bandwidth", None),
            getattr(config, "rescale_acts_by_decoder_norm", False),
            hasattr(config, "aux_loss_coefficient"),
            **jacobian,
            masking=config.gradient_masking_coefficient > 0,
            augmentation=member.augmentation.kind if member.augmentation else None,
        )

    @property
    def n_products(self) -> int:
        """Directions per row along which products are compared."""
        if self.estimator != "exact":
            return self.n_probes
        return self.shape[0] + (self.probe == "difference")

    @property
    def evaluations(self) -> int:
        """Passes per row of data, forward and back: what a step takes, roughly, in units of a plain one."""
        passes = 1 + (self.augmentation is not None)
        if self.estimator == "secant":
            return passes + self.n_probes * (1 + self.central) + self.jittered
        return passes if self.estimator is None else passes + self.n_products

    @property
    def flops(self) -> int:
        """Floating-point operations of one member's matrix products with its weights, a step, the layer's not counted:
        5 products of [rows, d] by [d, d_sae] for each row that is decoded (encode, decode, and the gradients of both
        matrices and of the activations), 5 for each direction, 1 for each row whose gates alone count."""
        d_in, d_sae, d_out, batch = self.shape
        decoded = self.evaluations if self.estimator in (None, "secant") else 1 + (self.augmentation is not None)
        products = 5 * decoded
        if self.estimator not in (None, "secant"):
            products += 5 * self.n_products + self.jittered
        return products * batch * d_sae * (d_in + d_out)  # 2 d_in, or 2 d_out, or their mean


class Coefficients(NamedTuple):
    """Of one step, after warm-up."""

    sparsity: Float[Tensor, " n"]
    tanh_scale: Float[Tensor, " n"]
    jacobian: Float[Tensor, " n"]
    masking: Float[Tensor, " n"]
    augmentation: Float[Tensor, " n"]


class CoefficientSchedule:
    """The members' coefficients at a step, with their linear warm-ups."""

    def __init__(self, members: Sequence[ToyMember], device: torch.device, dtype: torch.dtype) -> None:
        def numbers(values: Sequence[int | float]) -> Tensor:
            return torch.tensor(values, device=device, dtype=dtype)

        configs = [member.transcoder for member in members]
        self._final = Coefficients(
            numbers([_first(c, "sparsity_coefficient", "l0_coefficient") for c in configs]),
            numbers([_first(c, "tanh_scale", "jumprelu_tanh_scale") for c in configs]),
            numbers([c.jacobian_coefficient for c in configs]),
            numbers([c.gradient_masking_coefficient for c in configs]),
            numbers([m.augmentation.coefficient if m.augmentation else 0.0 for m in members]),
        )
        sparsity_steps = [_first(c, "sparsity_warm_up_steps", "l0_warm_up_steps") for c in configs]
        jacobian_steps = [c.jacobian_warm_up_steps for c in configs]
        self._sparsity_steps, self._jacobian_steps = numbers(sparsity_steps), numbers(jacobian_steps)
        self._last = max(*sparsity_steps, *jacobian_steps)

    def at(self, step: int) -> Coefficients:
        """At the step of this number, the first being 0; a warm-up starts at 0, as SAELens's do."""
        if step >= self._last:
            return self._final
        return self._final._replace(
            sparsity=self._final.sparsity * _share(step, self._sparsity_steps),
            jacobian=self._final.jacobian * _share(step, self._jacobian_steps),
        )


def _first(config: Any, *names: str) -> int | float:
    """The first of these fields that the config has, or 0."""
    return next((getattr(config, name) for name in names if hasattr(config, name)), 0)


def _share(step: int, warm_up_steps: Tensor) -> Tensor:
    return torch.where(warm_up_steps > step, step / warm_up_steps, torch.ones_like(warm_up_steps))
