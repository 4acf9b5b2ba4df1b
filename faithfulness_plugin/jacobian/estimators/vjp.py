"""Products J^T u, for layers without forward-mode rules."""

from dataclasses import dataclass

from torch import Tensor, nn
from typing_extensions import override

from faithfulness_plugin.jacobian.closed_form import region_at, transcoder_vjp
from faithfulness_plugin.jacobian.estimators.base import Estimator, Gate
from faithfulness_plugin.jacobian.probes import ISOTROPIC
from faithfulness_plugin.layers.derivatives import Layer, layer_vjp


@dataclass(frozen=True)
class Vjp(Estimator):
    """Mean of ||J_t^T u - J_f^T u||^2. With E[u u^T] = I it is an unbiased estimate of ||J_t - J_f||_F^2, because
    E_u ||A^T u||^2 = ||A||_F^2 = E_v ||A v||^2.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> layer, x = torch.nn.Linear(3, 2), torch.randn(1, 3)
        >>> estimator = Vjp(n_probes=2000)
        >>> u = estimator.draw(layer(x), None)
        >>> _, JTu = estimator.layer_products(layer, x, u, 1.0)
        >>> norm = layer.weight.detach().square().sum()
        >>> torch.testing.assert_close(JTu.square().sum(-1).mean(), norm, rtol=0.1, atol=0)
    """

    name = "vjp"
    probes = ISOTROPIC  # differences of inputs are no directions of the output
    pulls_back = True

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.probe not in self.probes:
            raise ValueError(
                f'estimator="vjp" draws directions of the output, and probe={self.probe!r} are directions of the '
                f'input: choose one of {tuple(self.probes)}, or estimator="jvp"'
            )

    @override
    def layer_products(
        self, layer: Layer, x: Tensor, v: Tensor, step: Tensor | float, *, y: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return layer_vjp(layer, x, v)  # v is u here, [n_probes, ..., d_out]

    @override
    def transcoder_products(
        self,
        transcoder: nn.Module,
        x: Tensor,
        v: Tensor,
        step: Tensor | float,
        *,
        gate: Gate | None = None,
    ) -> Tensor:
        region = region_at(transcoder, x, gate, self.gate_bandwidth)
        return transcoder_vjp(transcoder, x, v)[1] if region is None else region.vjp(v)  # [n_probes, ..., d_in]
