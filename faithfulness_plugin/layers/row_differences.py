"""Directions from one row of a batch to another: a linear map of them is a difference of what it makes of the rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from faithfulness_plugin.display import short_repr


@dataclass(frozen=True, eq=False)
class RowDifferences:
    """v = (x[ends] - x[starts]) / divisor, with x the batch's rows, flattened.

    W v needs no product with W where W x is known: (W v) = ((W x)[ends] - (W x)[starts]) / divisor. A constant added to
    W x, such as a bias, cancels.
    """

    ends: Int[Tensor, "n_probes *batch"]
    """The row at which each probe ends."""
    starts: Int[Tensor, "n_probes *batch"] | None
    """The row at which it starts; None where each row's probes start at the row itself."""
    divisor: float = 1.0

    __repr__ = short_repr

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
        # two of the three rows that x + step v is made of
        return self._combined(values, self.rows[:, 1:], values.new_tensor([1 / self.divisor, -1 / self.divisor]))

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
        return self._combined(values, self.rows, self.weights(values, step))

    def weights(self, values: Tensor, step: Float[Tensor, ""] | float) -> Float[Tensor, "3"]:
        """List the factors of the three rows that x + step v is made of, which `rows` lists.

        Args:
            values: for their dtype and device.
            step: the step's length, in units of v.

        Returns:
            1, step / divisor and -step / divisor.
        """
        return values.new_tensor([0.0, 1 / self.divisor, -1 / self.divisor]) * step + values.new_tensor([1.0, 0.0, 0.0])

    @cached_property
    def rows(self) -> Int[Tensor, "n_probes_rows 3"]:
        """For each probe the row that it belongs to, the row at which it ends, and the one at which it starts."""
        # rows are numbered as in the flattened batch
        ends = self.ends.flatten(1)  # [n_probes, rows]
        own = torch.arange(ends.shape[1], device=ends.device).expand_as(ends)
        starts = own if self.starts is None else self.starts.flatten(1)
        # probe after probe, and row after row
        return torch.stack([own, ends, starts], dim=-1).flatten(0, 1)

    def _combined(self, values: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """Sum weights[j] values[index[:, j]] in one pass over memory, where a sum of products would take one each."""
        # without a graph there is nothing to save for the backward pass
        combine: Any = _Combined.apply if values.requires_grad else _combine
        combined = combine(values.reshape(-1, values.shape[-1]), index.contiguous(), weights.expand(index.shape))
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
        # two numbers for each entry, of which no row is made
        difference = flat[self.ends[probe].flatten()[rows] * d + columns] - flat[starts * d + columns]
        return difference / self.divisor

    def only(self, probe: int) -> "RowDifferences":
        """Leave out all probes but one.

        Args:
            probe: its number.

        Returns:
            The differences of that probe, with 1 as n_probes.
        """
        if len(self.ends) == 1:  # with the index that it has made
            return self
        starts = None if self.starts is None else self.starts[probe : probe + 1]
        return RowDifferences(self.ends[probe : probe + 1], starts, self.divisor)

    def to(self, device: torch.device | str) -> "RowDifferences":
        """Move the indices to a device.

        Args:
            device: the device.

        Returns:
            The same differences, there.
        """
        starts = None if self.starts is None else self.starts.to(device)
        return RowDifferences(self.ends.to(device), starts, self.divisor)


@dataclass(frozen=True, eq=False)
class MovedRows:
    """W (x + step v), with a constant or without, of which no more is made at a time than is asked for. No graph."""

    values: Float[Tensor, "rows d"]
    """W x, with the constant."""
    along: RowDifferences
    """One probe: it says between which rows of x each direction v goes."""
    step: Float[Tensor, ""] | float

    __repr__ = short_repr

    @torch.no_grad()
    def whole(self) -> Float[Tensor, "rows d"]:
        """Compute all rows.

        Returns:
            `RowDifferences.moved` of the values.
        """
        return torch.cat(list(self.split(max(1, len(self.values)))))

    @torch.no_grad()
    def split(self, n_rows: int) -> Iterator[Float[Tensor, "some_rows d"]]:
        """Compute some rows at a time, as `torch.Tensor.split` gives them.

        Args:
            n_rows: how many; the last part may have fewer.

        Yields:
            The parts.
        """
        weights = self.along.weights(self.values, self.step)  # 1, and the step between both ends
        for rows in self.along.rows.split(n_rows):
            yield _combine(self.values, rows, weights.expand(rows.shape))

    def __getitem__(self, index: tuple[Int[Tensor, " entries"], Int[Tensor, " entries"]]) -> Float[Tensor, " entries"]:
        """Compute single numbers, by their rows and columns."""
        rows, columns = index
        # W x + step (W v), entry by entry
        return self.values[rows, columns] + self.step * self.along.at(self.values, 0, rows, columns)


class _Combined(torch.autograd.Function):
    """out[n] = sum_j weights[n, j] values[index[n, j]], by torch's embedding_bag, whose own backward pass is slower."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(index, weights)
        ctx.n_rows = len(values)  # of which some are in no sum
        return _combine(values, index, weights)

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


def _combine(values: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    return embedding_bag(index, values, mode="sum", per_sample_weights=weights) if len(index) else values[:0]
