"""The side of a chain of layers in a comparison with a cross-layer transcoder."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.jacobian.layer_response import LayerResponse
from faithfulness_plugin.layers.layer_chain import Link


@dataclass(frozen=True, eq=False)
class ChainResponse:
    """The chain's side of a comparison."""

    x: Float[Tensor, "*batch d_in"]
    """The rows [..., L * d_in] at which Jacobians are compared (jittered, if so configured)."""
    layers: tuple[LayerResponse, ...]
    """Each layer's own: probes v_m and J_m v_m, with the unit."""
    partial: tuple[tuple[Tensor | None, ...], ...]
    """P_lm v_l of the chain for m = l, l + 1, ...: None for pairs that it does not have."""
    reached: tuple[Tensor | None, ...]
    """What reaches each layer across the chain, [n, ..., d_out]; empty without `total`."""
    scales: tuple[Tensor | None, ...]
    """The unit of each."""
    link: Link | None

    __repr__ = short_repr

    @property
    def y(self) -> Float[Tensor, "*batch d_out"]:
        """What the layers write there, [..., L * d_out]."""
        return torch.cat([response.y for response in self.layers], dim=-1)

    def to(self, where: torch.dtype | torch.device | str) -> "ChainResponse":
        """Cast every tensor to a dtype, or move it to a device.

        Args:
            where: the dtype or the device.

        Returns:
            A new response.
        """

        def moved(tensors: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
            return tuple(None if tensor is None else tensor.to(where) for tensor in tensors)

        return ChainResponse(
            self.x.to(where),
            tuple(response.to(where) for response in self.layers),
            tuple(map(moved, self.partial)),
            moved(self.reached),
            moved(self.scales),
            self.link,
        )
