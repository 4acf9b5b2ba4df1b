"""The unit of the matching loss: means over rows, probes and processes."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from faithfulness_plugin.jacobian.estimators.base import Estimator
    from faithfulness_plugin.jacobian.matching_config import JacobianMatchingConfig


class LossUnit:
    """The part of `JacobianMatching` that averages."""

    config: "JacobianMatchingConfig"
    estimator: "Estimator"
    across: "torch.distributed.ProcessGroup | None" = None
    """The process group whose batch this is a part of: the unit is then the whole batch's. None for one process."""

    def scale(
        self, y: Float[Tensor, "*batch d_out"], Jv: Float[Tensor, "n_probes *batch d_product"]
    ) -> Float[Tensor, ""]:
        """Compute the unit of the loss.

        Args:
            y: f(x).
            Jv: its products along the probes.

        Returns:
            E||f - E f||^2 / E||J_f v||^2 with `normalize`, else 1.
        """
        if not self.config.normalize:
            return wide(y.new_ones(()))
        y = wide(y)
        rows = y.reshape(-1, y.shape[-1])  # [rows, d_out]
        centre = self._over_processes(rows.sum(0) / max(1, len(rows)))  # E f, [d_out]
        # E||f - E f||^2 and E||J_f v||^2, means over rows (and probes)
        variance, energy = mean((y - centre).square().sum(-1)), self.mean_energy(Jv)
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

    def mean_energy(self, Jv: Float[Tensor, "n_probes *batch d_product"]) -> Float[Tensor, ""]:
        """Average squared products.

        Args:
            Jv: products along the probes, or differences of some.

        Returns:
            The mean of ||Jv||^2 over rows and over random probes, or its sum over fixed ones.
        """
        energy = mean(wide(Jv).square().sum(-1))  # over [n_probes, ...]
        return energy * len(Jv) if self.estimator.fixed_probes else energy  # mean over n probes to their sum


def wide(values: Tensor) -> Tensor:
    """Cast to single precision at least: sums of half-precision squares lose too much.

    Args:
        values: any.

    Returns:
        The values.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def mean(values: Tensor) -> Float[Tensor, ""]:
    """Average values, with 0 for none: a batch may have no rows.

    Args:
        values: any.

    Returns:
        Their mean.
    """
    return values.sum() / max(1, values.numel())
