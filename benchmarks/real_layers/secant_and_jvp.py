"""The secant and the derivative along the same probes, at equal weight."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from faithfulness_plugin.benchmarks.real_layers.variation import SECANT_AND_JVP
from faithfulness_plugin.jacobian.estimators.base import Gate
from faithfulness_plugin.jacobian.estimators.jvp import Jvp
from faithfulness_plugin.jacobian.estimators.secant import Secant
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.layers.row_differences import RowDifferences


@dataclass(frozen=True)
class SecantAndJvp(Secant):
    """Mean of (||secant_t - secant_f||^2 + ||(J_t - J_f) v||^2) / 2: where the gates change, and where they hold.

    Example:
        >>> x, v = torch.tensor([[1.0]]), torch.tensor([[[1.0]]])
        >>> SecantAndJvp().layer_products(torch.square, x, v, 0.5)[1]  # (1.5^2 - 1^2) / 0.5, and the derivative
        tensor([[[2.5000]],
        <BLANKLINE>
                [[2.0000]]])
    """

    name = SECANT_AND_JVP

    @property
    def _jvp(self) -> Jvp:
        return Jvp(self.probe, self.n_probes)

    @override
    def layer_products(
        self,
        layer: Layer,
        x: Tensor,
        v: Tensor,
        step: Tensor | float,
        *,
        y: Tensor | None = None,
        along: RowDifferences | None = None,
    ) -> tuple[Tensor, Tensor]:
        y, Jv = self._jvp.layer_products(layer, x, v, step, y=y, along=along)
        _, secant = super().layer_products(layer, x, v, step, y=y, along=along)
        return y, torch.cat([secant, Jv])  # [2 n_probes, ..., d_out]

    @override
    def transcoder_products(
        self,
        transcoder: nn.Module,
        x: Tensor,
        v: Tensor,
        step: Tensor | float,
        *,
        gate: Gate | None = None,
        along: RowDifferences | None = None,
    ) -> Tensor:
        each = super(), self._jvp
        return torch.cat([of.transcoder_products(transcoder, x, v, step, gate=gate, along=along) for of in each])
