"""Directions from one row of a batch to another: a linear map of them is a difference of what it makes of the rows."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class RowDifferences(NamedTuple):
    """v = (x[ends] - x[starts]) / divisor, with x the batch's rows, flattened.

    W v needs no product with W where W x is known: (W v) = ((W x)[ends] - (W x)[starts]) / divisor. A constant added to
    W x, such as a bias, cancels.
    """

    ends: Int[Tensor, "n_probes *batch"]
    """The row at which each probe ends."""
    starts: Int[Tensor, "n_probes *batch"] | None
    """The row at which it starts; None where each row's probes start at the row itself."""
    divisor: float = 1.0

    def of(self, values: Float[Tensor, "*batch d"]) -> Float[Tensor, "n_probes *batch d"]:
        """Take the differences of what a linear or affine map made of the rows.

        Args:
            values: W x, with a constant or without, one row for each row of the batch.

        Returns:
            W v for each probe and row, with a gradient to `values`.

        Example:
            >>> x, W = torch.randn(4, 3), torch.randn(3, 2)
            >>> along = RowDifferences(torch.tensor([[1, 2, 3, 0]]), None)
            >>> torch.testing.assert_close(along.of(x @ W + 1), along.of(x) @ W)
        """
        rows = values.reshape(-1, values.shape[-1])
        ends = rows.index_select(0, self.ends.flatten()).view(*self.ends.shape, -1)
        if self.starts is None:
            return _divided(ends - values, self.divisor)
        starts = rows.index_select(0, self.starts.flatten()).view(*self.starts.shape, -1)
        return _divided(ends - starts, self.divisor)

    def at(
        self,
        values: Float[Tensor, "rows d"],
        probe: int,
        rows: Int[Tensor, " entries"],
        columns: Int[Tensor, " entries"],
    ) -> Float[Tensor, " entries"]:
        """Take single numbers of `of(values)`, without making the others.

        Args:
            values: W x, one row for each row of the batch.
            probe: which of the probes.
            rows: the row of each number.
            columns: its column.

        Returns:
            of(values)[probe, rows, columns].
        """
        flat, d = values.reshape(-1), values.shape[-1]
        starts = rows if self.starts is None else self.starts[probe].flatten()[rows]
        difference = flat[self.ends[probe].flatten()[rows] * d + columns] - flat[starts * d + columns]
        return _divided(difference, self.divisor)

    def only(self, probe: int) -> "RowDifferences":
        """Leave out all probes but one.

        Args:
            probe: its number.

        Returns:
            The differences of that probe, with 1 as n_probes.
        """
        starts = None if self.starts is None else self.starts[probe : probe + 1]
        return RowDifferences(self.ends[probe : probe + 1], starts, self.divisor)

    def to(self, device: torch.device | str) -> "RowDifferences":
        """Move the indices to a device.

        Args:
            device: the device.

        Returns:
            The same differences, there.
        """
        return self._replace(ends=self.ends.to(device), starts=None if self.starts is None else self.starts.to(device))


def _divided(values: Tensor, divisor: float) -> Tensor:
    return values if divisor == 1 else values / divisor
