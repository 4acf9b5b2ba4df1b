"""The linear region of a transcoder whose activations are stored for active features only."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.jacobian.active import ActiveFeatures, SharedMatrix, dot_active, sum_active
from faithfulness_plugin.jacobian.linear_region import LinearRegion, Weights
from faithfulness_plugin.layers.row_differences import MovedRows, RowDifferences


class SharedWeights(NamedTuple):
    """Both matrices, of which output and derivatives take products."""

    reads: SharedMatrix
    """W_enc^T [d_sae, d_in]."""
    writes: SharedMatrix
    """W_dec [d_sae, d_out]."""

    @classmethod
    def of(cls, weights: Weights) -> "SharedWeights":
        """Share the matrices of a transcoder for one forward pass.

        Args:
            weights: the transcoder's.

        Returns:
            Both, with a graph to the weights.
        """
        return cls(SharedMatrix(weights.W_enc.mT.contiguous()), SharedMatrix(weights.W_dec.contiguous()))


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
    shared: SharedWeights | None = field(default=None, repr=False)
    """The weights as the encoder took them, so that gradients are made in one pass; None to take them here."""

    __repr__ = short_repr

    @cached_property
    def _shared(self) -> SharedWeights:
        return SharedWeights.of(self.weights) if self.shared is None else self.shared

    @cached_property
    def _coo(self) -> Tensor:
        return self.entries.coo(self.values)

    @property
    @override
    def feature_acts(self) -> Tensor:
        return self._coo

    @override
    def decode(self) -> Float[Tensor, "*batch d_out"]:
        W_dec, b_dec = self.weights.W_dec, self.weights.b_dec
        return (sum_active(self.values, self.entries, self._shared.writes) + b_dec).view(
            *self.x.shape[:-1], W_dec.shape[1]
        )

    @override
    def _push(self, v: Tensor, along: RowDifferences | None) -> Tensor:
        return self._products(v, self._shared.reads, self._shared.writes, along)

    @override
    def _pull(self, u: Tensor) -> Tensor:
        return self._products(u, self._shared.writes, self._shared.reads)

    def _products(
        self, v: Tensor, reads: SharedMatrix, writes: SharedMatrix, along: RowDifferences | None = None
    ) -> Tensor:
        """Compute sum_i g_i <reads_i, v> writes_i."""
        gate, products = self.values > 0, []
        for n, probe in enumerate(v if v.ndim > self.x.ndim else v[None]):  # [..., d]
            rows = probe.reshape(self.entries.n_rows, v.shape[-1])  # [rows, d]
            known = None if along is None or self.hidden_pre is None else self._known(along, n)  # [entries]
            products.append(sum_active(dot_active(rows, self.entries, reads, known) * gate, self.entries, writes))
        return torch.stack(products).view(*v.shape[:-1], writes.W.shape[-1])  # [n_probes, rows, e] to the shape of v

    def _known(self, along: RowDifferences, probe: int) -> Float[Tensor, " entries"]:
        """Compute W_enc v of active features, which the pre-activations of all rows hold."""
        assert self.hidden_pre is not None
        hidden_pre = self.hidden_pre.reshape(self.entries.n_rows, self.entries.d_sae)
        return along.at(hidden_pre, probe, self.entries.rows, self.entries.features)

    @override
    def moved_pre(self, along: RowDifferences, step: Tensor | float) -> MovedRows | None:
        # part by part: rows that have been selected from are not needed again
        return None if self.hidden_pre is None else MovedRows(self.hidden_pre.flatten(0, -2), along, step)

    @override
    def _sum_of_active(self, values: Tensor) -> Tensor:
        return (values.index_select(0, self.entries.features) * (self.values > 0)).sum()

    @override
    def active(self) -> ActiveFeatures:
        positions = self.entries.positions[self.values > 0].sort().values  # TopK keeps features that the ReLU made 0
        return ActiveFeatures.of_flat(positions, self.entries.n_rows, self.entries.d_sae)
