"""Directions from one row of a batch to another: a linear map of them is a difference of what it makes of the rows."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag


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
        ends, starts = self._indices  # [n_probes, rows]
        one = values.new_ones(())
        difference = self._combined(values, [ends, starts], [one, -one])
        return difference if self.divisor == 1 else difference / self.divisor

    def moved(
        self, values: Float[Tensor, "*batch d"], step: Float[Tensor, ""] | float
    ) -> Float[Tensor, "n_probes *batch d"]:
        """Compute what the map makes of x + step v.

        Args:
            values: W x, with a constant or without, one row for each row of the batch.
            step: the step's length, in units of v.

        Returns:
            W (x + step v), with the same constant, and with a gradient to `values`.
        """
        ends, starts = self._indices
        weight = values.new_ones(()) * step / self.divisor
        # x + step v has three terms: the row itself, and the two rows that v goes between
        own = torch.arange(values.shape[:-1].numel(), device=values.device).expand_as(ends)
        return self._combined(values, [own, ends, starts], [torch.ones_like(weight), weight, -weight])

    @property
    def _indices(self) -> tuple[Int[Tensor, "n_probes rows"], Int[Tensor, "n_probes rows"]]:
        ends = self.ends.flatten(1)
        if self.starts is not None:
            return ends, self.starts.flatten(1)
        return ends, torch.arange(ends.shape[1], device=ends.device).expand_as(ends)

    def _combined(self, values: Tensor, rows: list[Tensor], weights: list[Tensor]) -> Tensor:
        """Sum weights_j values[rows_j] in one pass."""
        # one pass over memory for all terms, which products that are summed afterwards would take each
        index = torch.stack(rows, dim=-1)  # [n_probes, rows, terms]
        each = torch.stack(weights).expand(index.shape)  # the same for all rows
        flat = values.reshape(-1, values.shape[-1])
        combined: Any = _Combined.apply(flat, index.flatten(0, 1), each.flatten(0, 1))
        return combined.view(*self.ends.shape, values.shape[-1])

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
        flat, d = values.reshape(-1), values.shape[-1]  # position = row * d + column
        starts = rows if self.starts is None else self.starts[probe].flatten()[rows]
        difference = flat[self.ends[probe].flatten()[rows] * d + columns] - flat[starts * d + columns]
        return difference / self.divisor

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


class _Combined(torch.autograd.Function):
    """out[n] = sum_j weights[n, j] values[index[n, j]], by torch's embedding_bag, whose own backward pass is slower."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(index, weights)
        ctx.n_rows = len(values)  # of which some are in no sum
        return embedding_bag(index, values, mode="sum", per_sample_weights=weights) if len(index) else values[:0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        index, weights = ctx.saved_tensors
        flat = index.flatten()
        order = flat.argsort(stable=True)
        offsets = torch.searchsorted(flat[order], torch.arange(ctx.n_rows + 1, device=flat.device))
        # each row's terms stand together: the same sum, read by the row of `values`
        rows, each = order // index.shape[1], weights.flatten()[order]
        grad = grad_outputs[0].contiguous()
        return (
            embedding_bag(rows, grad, offsets, mode="sum", per_sample_weights=each, include_last_offset=True),
            None,
            None,
        )
