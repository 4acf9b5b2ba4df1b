"""The whole Jacobian, column by column: no variance, at the cost of d_in products."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.jacobian.estimators.jvp import Jvp
from faithfulness_plugin.jacobian.exact import difference_probes, pair_probes, unit_probes
from faithfulness_plugin.jacobian.probes import ISOTROPIC, Probe


def _fixed(probes: Callable[[Tensor], Tensor]) -> Probe:
    def draw(x: Tensor, n_probes: int = 1, generator: torch.Generator | None = None) -> Tensor:
        return probes(x)  # [d_in, ..., d_in], or d_in + 1 of them; nothing is random

    return draw


@dataclass(frozen=True)
class Exact(Jvp):
    """Sum of ||J_t v_i - J_f v_i||^2 over fixed probes with sum_i v_i v_i^T = E[v v^T].

    It is the mean that random probes of the same name estimate, itself. For isotropic probes it is ||J_t - J_f||_F^2.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> estimator, layer, x = Exact(), torch.nn.Linear(3, 2), torch.randn(5, 3)
        >>> v = estimator.draw(x, None)
        >>> _, Jv = estimator.layer_products(layer, x, v, 1.0)
        >>> torch.testing.assert_close(Jv.square().sum((0, 2)), layer.weight.detach().square().sum().expand(5))
    """

    name = "exact"
    probes: ClassVar[Mapping[str, Probe]] = {
        **dict.fromkeys(ISOTROPIC, _fixed(unit_probes)),
        "pair": _fixed(pair_probes),
        "difference": _fixed(difference_probes),
    }
    fixed_probes = True  # squares are summed over them

    @override
    def n_products(self, d_in: int) -> int:
        return d_in + (self.probe == "difference")  # and the way to the mean
