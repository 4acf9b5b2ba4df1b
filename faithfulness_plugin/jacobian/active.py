"""Products over active features only: what a sparse transcoder multiplies without its other features.

Both are built on torch's embedding_bag, which gathers and sums rows natively on CPU and GPU: nothing of size
[rows, k, d] or [rows, d_sae] is made, forward or backward.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from faithfulness_plugin.display import short_repr

SUM_MODE = 0  # embedding_bag's own number for mode="sum"


@dataclass(frozen=True)
class ActiveFeatures:
    """The features that are active on each row: the index of a [n_rows, d_sae] matrix, row after row."""

    features: Int[Tensor, " entries"]
    """The feature of each entry."""
    offsets: Int[Tensor, " n_rows_and_1"]
    """Row i has the entries offsets[i] up to offsets[i + 1]."""
    d_sae: int

    __repr__ = short_repr

    @classmethod
    def same_count(cls, features: Int[Tensor, "n_rows k"], d_sae: int) -> "ActiveFeatures":
        """Make the index of k features in every row.

        Args:
            features: the k features of each row, in any order.
            d_sae: the number of features that a row could have.

        Returns:
            The index, with n_rows * k entries.
        """
        n_rows, k = features.shape
        offsets = torch.arange(n_rows + 1, device=features.device) * k  # row i has the entries from i k on
        return cls(features.reshape(-1), offsets, d_sae)

    @classmethod
    def of_flat(cls, positions: Int[Tensor, " entries"], n_rows: int, d_sae: int) -> "ActiveFeatures":
        """Make the index from positions in the flattened [n_rows, d_sae] matrix.

        Args:
            positions: row * d_sae + feature of each entry, in ascending order.
            n_rows: the number of rows, those without entries included.
            d_sae: the number of features.

        Returns:
            The index; rows may have different numbers of entries.
        """
        # position = row * d_sae + feature
        return cls(positions % d_sae, _offsets(positions // d_sae, n_rows), d_sae)

    @property
    def n_rows(self) -> int:
        return len(self.offsets) - 1

    @property
    def positions(self) -> Int[Tensor, " entries"]:
        """The position of each entry in the flattened matrix."""
        return self.rows * self.d_sae + self.features

    @property
    def rows(self) -> Int[Tensor, " entries"]:
        """The row of each entry."""
        return _rows(self.features, self.offsets)

    def dense(self, values: Float[Tensor, " entries"]) -> Float[Tensor, "n_rows d_sae"]:
        """Build the matrix itself, with 0 where no entry is.

        Args:
            values: the value of each entry.

        Returns:
            The matrix, with a gradient to the values.
        """
        zeros = values.new_zeros(self.n_rows * self.d_sae)  # flat, [n_rows * d_sae]
        return zeros.index_put((self.positions,), values).view(self.n_rows, self.d_sae)

    def coo(self, values: Float[Tensor, " entries"]) -> Tensor:
        """Build the matrix in torch's sparse COO layout.

        Args:
            values: the value of each entry.

        Returns:
            A sparse tensor [n_rows, d_sae], with a gradient to the values.
        """
        index = torch.stack([self.rows, self.features])  # [2, entries]
        return torch.sparse_coo_tensor(index, values, (self.n_rows, self.d_sae), check_invariants=False)


def sum_active(
    values: Float[Tensor, " entries"], active: ActiveFeatures, W: Float[Tensor, "d_sae d"]
) -> Float[Tensor, "n_rows d"]:
    """Compute out[n] = sum over the active features i of row n of values_i W[i]: a decoder over active features.

    Args:
        values: one number per entry, such as activations a_i; cast to the dtype of W.
        active: which features are active on which row.
        W: what each feature writes, such as W_dec.

    Returns:
        The sums, with gradients to `values` and `W`.
    """
    return _SumActive.apply(values.to(W.dtype), W, active.features, active.offsets)  # pyright: ignore[reportReturnType]


def dot_active(
    x: Float[Tensor, "n_rows d"],
    active: ActiveFeatures,
    W: Float[Tensor, "d_sae d"],
    known: Float[Tensor, " entries"] | None = None,
) -> Float[Tensor, " entries"]:
    """Compute values_i = <x[n], W[i]> for the active features i of each row n: an encoder over active features.

    Args:
        x: the rows; cast to the dtype of W.
        active: which features are active on which row.
        W: what each feature reads, such as W_enc^T, stored feature by feature.
        known: the result, where it is known already: then this only gives it its gradient.

    Returns:
        The products, entry by entry, with gradients to `x` and `W`.
    """
    return _DotActive.apply(x.to(W.dtype), W, active.features, active.offsets, known)  # pyright: ignore[reportReturnType]


class _SumActive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, W: Tensor, features: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(values, W, features, offsets)
        return _bag(values, features, offsets, W)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  that is how torch calls it
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        values, W, features, offsets = ctx.saved_tensors
        grad = grad_outputs[0].contiguous()
        # out[n] = sum_i values_ni W[i], so that with grad [n_rows, d] the gradient of values_ni is <grad[n], W[i]>, and
        # that of W[i] the sum over rows of values_ni grad[n], [d_sae, d]
        to_values = _dots(grad, features, offsets, W) if ctx.needs_input_grad[0] else None
        to_W = _by_feature(values, features, offsets, grad, len(W)) if ctx.needs_input_grad[1] else None
        return to_values, to_W, None, None


class _DotActive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, features: Tensor, offsets: Tensor, known: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, W, features, offsets)
        return _dots(x.contiguous(), features, offsets, W) if known is None else known.to(W.dtype, copy=True)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  that is how torch calls it
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, W, features, offsets = ctx.saved_tensors
        grad = grad_outputs[0].contiguous()
        # values_ni = <x[n], W[i]>, so that with grad [entries] the gradient of x[n] is sum_i grad_ni W[i], [n_rows, d],
        # and that of W[i] the sum over rows of grad_ni x[n], [d_sae, d]
        to_x = _bag(grad, features, offsets, W) if ctx.needs_input_grad[0] else None
        to_W = _by_feature(grad, features, offsets, x.contiguous(), len(W)) if ctx.needs_input_grad[1] else None
        return to_x, to_W, None, None, None


def _bag(values: Tensor, features: Tensor, offsets: Tensor, W: Tensor) -> Tensor:
    return embedding_bag(features, W, offsets, mode="sum", per_sample_weights=values, include_last_offset=True)


def _dots(x: Tensor, features: Tensor, offsets: Tensor, W: Tensor) -> Tensor:
    """Compute <x[n], W[i]> per entry: to torch the gradient of a bag's weights, a kernel without a public name."""
    rows = _rows(features, offsets)
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(x, W, features, offsets[:-1], rows, SUM_MODE, -1)


def _by_feature(values: Tensor, features: Tensor, offsets: Tensor, x: Tensor, d_sae: int) -> Tensor:
    """Sum values_ni x[n] over the rows n where feature i is active: the same bag, read feature by feature."""
    order = features.argsort(stable=True)  # the entries feature by feature
    rows = _rows(features, offsets)
    # a bag per feature, of the rows of x where it is active: [d_sae, d]
    return _bag(values[order], rows[order], _offsets(features[order], d_sae), x)


def _rows(features: Tensor, offsets: Tensor) -> Tensor:
    """Compute the row of each entry."""
    return torch.repeat_interleave(offsets.diff(), output_size=len(features))


def _offsets(ascending: Tensor, n: int) -> Tensor:
    """Find where each of 0 ... n begins in a sorted list."""
    return torch.searchsorted(ascending, torch.arange(n + 1, device=ascending.device))
