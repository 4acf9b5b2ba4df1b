"""Rows that bring with them what the layer says of them, so that a transcoder can learn where the layer is not."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.jacobian.matching_config import JacobianMatchingConfig


class LayerSays(NamedTuple):
    """What was asked of a layer, and what it answered."""

    x: Float[Tensor, "rows d_in"]
    y: Float[Tensor, "rows d_out"]
    """f(x)."""
    v: Float[Tensor, "n_probes rows d_probe"] | None = None
    """The probes; None where no derivative was asked for."""
    Jv: Float[Tensor, "n_probes rows d_product"] | None = None
    """The layer's product along them (J^T u for the estimator "vjp", a difference quotient for "secant")."""
    step: float = 1.0
    """The secant's step."""


@dataclass(frozen=True)
class PackedRows:
    """The layout of rows [x | y | v_1 ... v_n | Jv_1 ... Jv_n], as one tensor that any trainer hands on.

    Takes a layer's place in `set_layer`: the transcoder then expects such rows where it expected x.
    """

    d_in: int
    d_out: int
    product: JacobianMatchingConfig | None = None
    """Along which probes, and by which estimator; None for rows [x | y]."""
    step: float = 1.0
    """The secant's."""

    @property
    def widths(self) -> list[int]:
        """Of the parts, probes one by one."""
        if self.product is None:
            return [self.d_in, self.d_out]
        probe, answer = (self.d_out, self.d_in) if self.product.estimator == "vjp" else (self.d_in, self.d_out)
        n = self.product.n_probes
        return [self.d_in, self.d_out, *[probe] * n, *[answer] * n]

    def pack(self, says: LayerSays) -> Float[Tensor, "rows width"]:
        """One row each."""
        parts = [says.x, says.y]
        if says.v is not None and says.Jv is not None:
            parts += [*says.v, *says.Jv]
        return torch.cat(parts, dim=-1)

    def unpack(self, rows: Float[Tensor, "rows width"]) -> LayerSays:
        """The parts. Raises ValueError for rows of another width."""
        if rows.shape[-1] != sum(self.widths):
            raise ValueError(
                f"the rows are {rows.shape[-1]} wide and x, f(x), probes and products make {sum(self.widths)}: take "
                "layer and rows from one store"
            )
        x, y, *rest = rows.split(self.widths, dim=-1)
        if not rest:
            return LayerSays(x, y)
        n = len(rest) // 2
        return LayerSays(x, y, torch.stack(rest[:n]), torch.stack(rest[n:]), self.step)
