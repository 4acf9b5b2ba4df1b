"""The linear region of a transcoder whose activations are stored for active features only."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.jacobian.active import ActiveFeatures, dot_active, sum_active
from faithfulness_plugin.jacobian.linear_region import LinearRegion
from faithfulness_plugin.layers.row_differences import RowDifferences


@dataclass(frozen=True)
class SparseRegion(LinearRegion):
    """The region of a transcoder whose activations are stored for active features only: no product here has the size of
    a [batch, d_sae] matrix, forward or backward.

    W_enc is read by columns. Stored feature by feature (`W_enc.T` contiguous, as TopK transcoders here have it) it is
    used as it is; otherwise it is copied at every use.
    """

    values: Float[Tensor, " entries"]
    """a_i of each entry; entries that are 0 are not active."""
    entries: ActiveFeatures
    """The index of the rows of x, flattened."""
    hidden_pre: Float[Tensor, "*batch d_sae"] | None = None
    """The pre-activations, without a graph."""

    __repr__ = short_repr

    @cached_property
    def _coo(self) -> Tensor:
        return self.entries.coo(self.values)

    @property
    @override
    def feature_acts(self) -> Tensor:
        return self._coo

    @override
    def decode(self) -> Float[Tensor, "*batch d_out"]:
        _, W_dec, b_dec, _ = self.weights
        return (sum_active(self.values, self.entries, W_dec.contiguous()) + b_dec).view(
            *self.x.shape[:-1], W_dec.shape[1]
        )

    @override
    def _through(self, v: Tensor, reads: Tensor, writes: Tensor, along: RowDifferences | None = None) -> Tensor:
        gate, reads, writes = self.values > 0, reads.contiguous(), writes.contiguous()
        products = []
        for n, probe in enumerate(v if v.ndim > self.x.ndim else v[None]):  # [..., d]
            rows = probe.reshape(self.entries.n_rows, v.shape[-1])  # [rows, d]
            known = None if along is None or self.hidden_pre is None else self._known(along, n)  # [entries]
            products.append(sum_active(dot_active(rows, self.entries, reads, known) * gate, self.entries, writes))
        return torch.stack(products).view(*v.shape[:-1], writes.shape[-1])  # [n_probes, rows, e] to the shape of v

    def _known(self, along: RowDifferences, probe: int) -> Float[Tensor, " entries"]:
        """Compute W_enc v of active features, which the pre-activations of all rows hold."""
        assert self.hidden_pre is not None
        hidden_pre = self.hidden_pre.reshape(self.entries.n_rows, self.entries.d_sae)
        return along.at(hidden_pre, probe, self.entries.rows, self.entries.features)

    @override
    def _along_rows(self, v: Tensor, along: RowDifferences) -> Tensor:
        return self._through(v, self.weights.W_enc.T, self.weights.W_dec, along)

    @override
    @torch.no_grad()
    def moved_pre(self, along: RowDifferences, step: Tensor | float) -> Tensor | None:
        return None if self.hidden_pre is None else along.moved(self.hidden_pre, step)

    @override
    def _sum_of_active(self, values: Tensor) -> Tensor:
        return (values.index_select(0, self.entries.features) * (self.values > 0)).sum()

    @override
    def active(self) -> ActiveFeatures:
        positions = self.entries.positions[self.values > 0].sort().values  # TopK keeps features that the ReLU made 0
        return ActiveFeatures.of_flat(positions, self.entries.n_rows, self.entries.d_sae)
