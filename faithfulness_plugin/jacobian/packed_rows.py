"""Rows that carry the layer's outputs and derivatives, so that a transcoder can learn without the layer."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.jacobian.layer_response import LayerResponse
from faithfulness_plugin.jacobian.matching_config import JacobianMatchingConfig
from faithfulness_plugin.layers.stored_layer import StoredLayer


@dataclass(frozen=True)
class PackedRows:
    """The layout of rows [x | y | v_1 ... v_n | Jv_1 ... Jv_n], as one tensor that any trainer hands on.

    Takes a layer's place in `set_layer`: the transcoder then expects such rows where it expected x.
    """

    d_in: int
    d_out: int
    product: JacobianMatchingConfig | None = None
    """The probes and the estimator; None for rows [x | y]."""
    step: float = 1.0
    """The length of the secant's step."""
    known: StoredLayer | None = None
    """The layer by its stored weights, which rows [x | y] can be asked for any derivative; None without weights."""

    @property
    def widths(self) -> list[int]:
        """The widths of the parts, probes one by one."""
        if self.product is None:
            return [self.d_in, self.d_out]
        probe, product = self.product.build_estimator().widths(self.d_in, self.d_out)
        n = self.product.n_probes
        return [self.d_in, self.d_out, *[probe] * n, *[product] * n]

    def pack(self, response: LayerResponse) -> Float[Tensor, "rows width"]:
        """Concatenate the parts of a response, one row each.

        Args:
            response: x, f(x), and probes and products where the layout has some; its step and scale are not packed.

        Returns:
            Rows [x | y | v_1 ... v_n | Jv_1 ... Jv_n].
        """
        x, y, v, Jv, *_ = response
        parts = [x, y] if v is None or Jv is None else [x, y, *v, *Jv]  # v and Jv probe by probe, [rows, d] each
        return torch.cat(parts, dim=-1)  # [rows, sum of the widths]

    def unpack(self, rows: Float[Tensor, "rows width"]) -> LayerResponse:
        """Split rows into their parts.

        Args:
            rows: what `pack` returned, or a batch of such rows.

        Returns:
            The response, with the layout's step and without a scale; x and y in the dtype of the stored weights, and
            these on the device of the rows, where the layout has some.

        Raises:
            ValueError: rows of another width.
        """
        if rows.shape[-1] != sum(self.widths):
            raise ValueError(
                f"the rows are {rows.shape[-1]} wide and x, f(x), probes and products make {sum(self.widths)}: take "
                "layer and rows from one store"
            )
        x, y, *rest = rows.split(self.widths, dim=-1)
        if self.known is not None:  # rows that were rounded go back into the layer's dtype
            dtype = self.known.to(rows.device).dtype
            x, y = x.to(dtype), y.to(dtype)
        if not rest:
            return LayerResponse(x, y)
        n = len(rest) // 2  # as many probes as products
        return LayerResponse(x, y, torch.stack(rest[:n]), torch.stack(rest[n:]), self.step)  # [n_probes, rows, d]
