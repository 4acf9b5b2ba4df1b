"""What an ensemble's members share to be computed together, and what may differ between them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.benchmarks.note.trainer.member import ToyMember
from faithfulness_plugin.jacobian.estimators.base import Estimator
from faithfulness_plugin.jacobian.estimators.secant import Secant


@dataclass(frozen=True)
class Program:
    """What members must share to be computed together; all else may differ from one to the next."""

    shape: tuple[int, int, int, int]
    """(d_in, d_sae, d_out, batch size)."""
    architecture: str
    sparsity: str | None
    """The penalty's shape; None for no penalty."""
    own_rows: bool
    skip: bool
    bandwidth: float | None
    """JumpReLU's."""
    ranked_by_norm: bool
    revives: bool
    """Dead features have a loss."""
    masking: bool
    augmentation: str | None
    estimator: Estimator | None
    """How Jacobians are matched, the secant's radius left out; None where they are not."""
    jittered: bool
    normalize: bool

    @classmethod
    def of(cls, member: ToyMember) -> "Program":
        """Return a member's program."""
        config, matching, estimator = member.transcoder, member.matching, None
        if member.matched:
            estimator = matching.build_estimator()
            if isinstance(estimator, Secant):
                estimator = replace(estimator, radius=Secant.radius)
        return cls(
            shape=(config.d_in, config.d_sae, config.d_out, member.batch_size),
            architecture=config.architecture(),
            sparsity=getattr(config, "sparsity", getattr(config, "jumprelu_sparsity_loss_mode", None)),
            own_rows=member.rows is not None,
            skip=config.skip,
            bandwidth=getattr(config, "jumprelu_bandwidth", None),
            ranked_by_norm=getattr(config, "rescale_acts_by_decoder_norm", False),
            revives=hasattr(config, "aux_loss_coefficient"),
            masking=config.gradient_masking_coefficient > 0,
            augmentation=member.augmentation.kind if member.augmentation else None,
            estimator=estimator,
            jittered=member.matched and matching.jitter > 0,
            normalize=not member.matched or matching.normalize,
        )

    @property
    def secant(self) -> Secant | None:
        """The estimator, where it compares functions at the ends of a step."""
        return self.estimator if isinstance(self.estimator, Secant) else None

    @property
    def tangent(self) -> Estimator | None:
        """The estimator, where it compares derivatives."""
        return None if isinstance(self.estimator, Secant) else self.estimator

    @property
    def n_products(self) -> int:
        """Directions per row along which derivatives are compared."""
        return self.tangent.n_products(self.shape[0]) if self.tangent else 0

    @property
    def n_decoded(self) -> int:
        """Rows that are encoded and decoded, per row of data."""
        n = 1 + (self.augmentation is not None)
        if self.secant:
            n += self.secant.n_probes * (1 + self.secant.central) + self.jittered
        return n

    @property
    def flops(self) -> int:
        """Floating-point operations of one member's matrix products with its weights, a step, the layer's not counted:
        5 products of [rows, d] by [d, d_sae] for each row that is decoded (encode, decode, and the gradients of both
        matrices and of the activations), 5 for each direction, 1 for each row whose gates alone count."""
        d_in, d_sae, d_out, batch = self.shape
        products = 5 * (self.n_decoded + self.n_products) + (self.tangent is not None and self.jittered)
        return products * batch * d_sae * (d_in + d_out)  # 2 d_in, or 2 d_out, or their mean


class Coefficients(NamedTuple):
    """The members' coefficients at one step, after warm-up."""

    sparsity: Float[Tensor, " n"]
    tanh_scale: Float[Tensor, " n"]
    jacobian: Float[Tensor, " n"]
    masking: Float[Tensor, " n"]
    augmentation: Float[Tensor, " n"]


class CoefficientSchedule:
    """The members' coefficients at a step, with their linear warm-ups."""

    def __init__(self, members: Sequence[ToyMember], device: torch.device, dtype: torch.dtype) -> None:
        configs = [member.transcoder for member in members]

        def numbers(values: Sequence[int | float]) -> Tensor:
            return torch.tensor(values, device=device, dtype=dtype)

        def field(*names: str) -> list[Any]:
            """Return the first of these fields that the configs have, or 0."""
            return [next((getattr(c, name) for name in names if hasattr(c, name)), 0) for c in configs]

        self._final = Coefficients(
            numbers(field("sparsity_coefficient", "l0_coefficient")),
            numbers(field("tanh_scale", "jumprelu_tanh_scale")),
            numbers(field("jacobian_coefficient")),
            numbers(field("gradient_masking_coefficient")),
            numbers([m.augmentation.coefficient if m.augmentation else 0.0 for m in members]),
        )
        sparsity, jacobian = field("sparsity_warm_up_steps", "l0_warm_up_steps"), field("jacobian_warm_up_steps")
        self._warm_up = {"sparsity": numbers(sparsity), "jacobian": numbers(jacobian)}
        self._last = max(*sparsity, *jacobian)

    def at(self, step: int) -> Coefficients:
        """Return those of the step of this number, the first being 0; a warm-up starts at 0, as SAELens's do."""
        if step >= self._last:
            return self._final
        shares = {
            name: torch.where(steps > step, step / steps, torch.ones_like(steps))
            for name, steps in self._warm_up.items()
        }
        return self._final._replace(**{name: getattr(self._final, name) * share for name, share in shares.items()})
