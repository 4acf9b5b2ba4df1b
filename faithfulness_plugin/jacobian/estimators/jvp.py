"""Products J v: the estimator of least cost."""

from dataclasses import dataclass

from torch import Tensor, nn
from typing_extensions import override

from faithfulness_plugin.jacobian.closed_form import region_at, transcoder_jvp
from faithfulness_plugin.jacobian.estimators.base import Estimator, Gate
from faithfulness_plugin.layers.derivatives import Layer, layer_jvp
from faithfulness_plugin.layers.known_layer import KnownLayer
from faithfulness_plugin.layers.row_differences import RowDifferences


@dataclass(frozen=True)
class Jvp(Estimator):
    """Mean of ||J_t v - J_f v||^2. With E[v v^T] = I it is an unbiased estimate of ||J_t - J_f||_F^2 (Hutchinson):
    E_v ||A v||^2 = tr(A E[v v^T] A^T) = ||A||_F^2.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> layer, x = torch.nn.Linear(3, 2), torch.randn(1, 3)
        >>> estimator = Jvp(n_probes=2000)
        >>> _, Jv = estimator.layer_products(layer, x, estimator.draw(x, None), 1.0)
        >>> norm = layer.weight.detach().square().sum()
        >>> torch.testing.assert_close(Jv.square().sum(-1).mean(), norm, rtol=0.1, atol=0)
    """

    name = "jvp"

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
        # [..., d_out] and [n_probes, ..., d_out]
        return layer.jvp(x, v, along, y) if isinstance(layer, KnownLayer) else layer_jvp(layer, x, v)

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
        # closed form where there is a region, autograd where not
        region = region_at(transcoder, x, gate, self.gate_bandwidth)
        # [n_probes, ..., d_out]
        return transcoder_jvp(transcoder, x, v)[1] if region is None else region.jvp(v, along)
