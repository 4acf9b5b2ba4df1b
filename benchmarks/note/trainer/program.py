"""What an ensemble's members share to be computed together."""

from dataclasses import dataclass, replace
from typing import Any

from faithfulness_plugin.benchmarks.note.trainer.member import ToyMember
from faithfulness_plugin.benchmarks.note.trainer.weights import ALIGNED
from faithfulness_plugin.jacobian.estimators.base import Estimator
from faithfulness_plugin.jacobian.estimators.secant import Secant

OPTIONS = (
    "skip",
    "sparsity",
    "k",
    "rescale_acts_by_decoder_norm",
    "jumprelu_bandwidth",
    "jumprelu_sparsity_loss_mode",
    "jumprelu_ste_to_input",
    "target_l0",
    "pre_act_loss_coefficient",
)
"""Fields of the architectures' configs in which members of one program agree."""


@dataclass(frozen=True)
class Program:
    """What members must share to be computed together; all else may differ from one to the next."""

    shape: tuple[int, int, int, int]
    """(d_in, d_sae, d_out, batch size)."""
    architecture: str
    options: tuple[Any, ...]
    """The values of `OPTIONS`; None where the architecture has no such field."""
    own_rows: bool
    masking: bool
    augmentation: str | None
    estimator: Estimator | None
    """How Jacobians are matched, the secant's radius left out; None where they are not."""
    jittered: bool
    normalize: bool

    @classmethod
    def of(cls, member: ToyMember) -> "Program":
        """Build a member's program.

        Args:
            member: the member.

        Returns:
            The program: equal for members that can be computed together.
        """
        config, matching, estimator = member.transcoder, member.matching, None
        if member.matched:
            estimator = matching.build_estimator()
            if isinstance(estimator, Secant):
                estimator = replace(estimator, radius=Secant.radius)
        return cls(
            shape=(config.d_in, config.d_sae, config.d_out, member.batch_size),
            architecture=config.architecture(),
            options=tuple(getattr(config, name, None) for name in OPTIONS),
            own_rows=member.rows is not None,
            masking=config.gradient_masking_coefficient > 0,
            augmentation=member.augmentation.kind if member.augmentation else None,
            estimator=estimator,
            jittered=member.matched and matching.jitter > 0,
            normalize=not member.matched or matching.normalize,
        )

    @property
    def aligned(self) -> bool:
        """Whether each member's part of every stacked matrix is a whole number of vector registers. Kernels treat the
        rest of a buffer apart, and may round it in another way: a member with a rest is computed alone, so that its
        numbers do not depend on where it stands, to the bit."""
        d_in, d_sae, d_out, batch = self.shape
        sizes = [batch * d_sae, d_in * d_sae, d_sae * d_out]
        if self.options[OPTIONS.index("skip")]:
            sizes.append(d_in * d_out)
        return all(size % ALIGNED == 0 for size in sizes)

    @property
    def flops(self) -> int:
        """Floating-point operations of one member's matrix products with its weights, a step, the layer's not counted:
        5 products of [rows, d] by [d, d_sae] for each row that is decoded (encode, decode, and the gradients of both
        matrices and of the activations), 5 for each direction of a derivative, 1 for rows whose gates alone count."""
        d_in, d_sae, d_out, batch = self.shape
        rows, gates = 1 + (self.augmentation is not None), 0
        if isinstance(self.estimator, Secant):
            rows += self.estimator.n_probes * (1 + self.estimator.central) + self.jittered
        elif self.estimator is not None:
            rows, gates = rows + self.estimator.n_products(d_in), int(self.jittered)
        return (5 * rows + gates) * batch * d_sae * (d_in + d_out)  # 2 d_in, or 2 d_out, or their mean
