"""Products over active features only: what a sparse transcoder multiplies without its other features.

Both are built on torch's embedding_bag, which gathers and sums rows natively on CPU and GPU: nothing of size
[rows, k, d] or [rows, d_sae] is made, forward or backward.
"""

from dataclasses import dataclass
from functools import cached_property
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

    @cached_property
    def by_feature(self) -> tuple[Tensor, Tensor, Tensor]:
        """The entries feature after feature: (their order, their rows, where each feature's begin [d_sae + 1])."""
        order = self.features.argsort(stable=True)  # [entries]
        return order, self.rows[order], _offsets(self.features[order], self.d_sae)

    @property
    def n_rows(self) -> int:
        return len(self.offsets) - 1

    @property
    def positions(self) -> Int[Tensor, " entries"]:
        """The position of each entry in the flattened matrix."""
        return self.rows * self.d_sae + self.features

    @cached_property
    def rows(self) -> Int[Tensor, " entries"]:
        """The row of each entry."""
        return torch.repeat_interleave(self.offsets.diff(), output_size=len(self.features))

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


class SharedMatrix:
    """A matrix W of which several products over active features are taken, and whose gradient is made in one pass from
    all of them. A gradient for each product would be written, read and added, which costs as much as the products.

    Args:
        W: the matrix [d_sae, d].
    """

    def __init__(self, W: Float[Tensor, "d_sae d"]) -> None:
        self.W = W.detach()
        self.uses = _Uses()
        # an empty tensor on which products depend in the place of W, so that a backward pass comes to W after all
        self.token: Tensor = _Token.apply(W, self.uses)  # pyright: ignore[reportAttributeAccessIssue]


class _Uses:
    """What the gradient of a matrix is made of, for one backward pass: one that ends before it comes to the matrix must
    not add to the next."""

    def __init__(self) -> None:
        self._pass, self._uses = -1, list[tuple[Tensor, ActiveFeatures, Tensor]]()

    def add(self, values: Tensor, active: ActiveFeatures, x: Tensor) -> Tensor:
        """Note that the gradient of W[i] has the sum of values_ni x[n] over the rows n where feature i is active.
        Return the gradient of the token."""
        if (now := torch._C._current_graph_task_id()) != self._pass:
            self._pass, self._uses = now, []
        self._uses.append((values, active, x))
        return x.new_empty(0)

    def gradient(self) -> Tensor:
        """Compute the gradient of W, and start again."""
        values, actives, x = zip(*self._uses, strict=True)
        self._uses, first, n = [], actives[0], len(actives)
        if n == 1:
            return _by_feature(values[0], first, x[0])
        if all(active is first for active in actives):
            # its order serves all: a bag per feature, in which each entry stands once for each use
            order, rows, offsets = first.by_feature
            rows = rows[:, None] + first.n_rows * torch.arange(n, device=rows.device)  # [entries, uses]
            each = torch.stack(values, dim=-1)[order]
            return _bag(each.flatten(), rows.flatten(), offsets * n, torch.cat(x))
        offsets, done = [first.offsets[:1]], 0
        for active in actives:
            offsets.append(active.offsets[1:] + done)
            done += len(active.features)
        features = torch.cat([active.features for active in actives])
        joined = ActiveFeatures(features, torch.cat(offsets), first.d_sae)  # row after row, use after use
        return _by_feature(torch.cat(values), joined, torch.cat(x))


def sum_active(
    values: Float[Tensor, " entries"], active: ActiveFeatures, W: Float[Tensor, "d_sae d"] | SharedMatrix
) -> Float[Tensor, "n_rows d"]:
    """Compute out[n] = sum over the active features i of row n of values_i W[i]: a decoder over active features.

    Args:
        values: one number per entry, such as activations a_i; cast to the dtype of W.
        active: which features are active on which row.
        W: what each feature writes, such as W_dec.

    Returns:
        The sums, with gradients to `values` and `W`.
    """
    W = W if isinstance(W, SharedMatrix) else SharedMatrix(W)
    return _SumActive.apply(values.to(W.W.dtype), W.token, W, active)  # pyright: ignore[reportReturnType]


def dot_active(
    x: Float[Tensor, "n_rows d"],
    active: ActiveFeatures,
    W: Float[Tensor, "d_sae d"] | SharedMatrix,
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
    W = W if isinstance(W, SharedMatrix) else SharedMatrix(W)
    return _DotActive.apply(x.to(W.W.dtype), W.token, W, active, known)  # pyright: ignore[reportReturnType]


class _Token(torch.autograd.Function):
    """An empty tensor that stands for a matrix in the graph."""

    @staticmethod
    def forward(ctx: Any, W: Tensor, uses: _Uses) -> Tensor:
        ctx.uses = uses
        return W.new_empty(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]  that is how torch calls it
        return ctx.uses.gradient(), None


class _SumActive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, token: Tensor, shared: SharedMatrix, active: ActiveFeatures) -> Tensor:
        ctx.save_for_backward(values, shared.W)
        ctx.uses, ctx.active = shared.uses, active
        return _bag(values, active.features, active.offsets, shared.W)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        values, W = ctx.saved_tensors
        grad = grad_outputs[0].contiguous()
        # out[n] = sum_i values_ni W[i], so that with grad [n_rows, d] the gradient of values_ni is <grad[n], W[i]>, and
        # that of W[i] the sum over rows of values_ni grad[n], [d_sae, d]
        to_values = _dots(grad, ctx.active, W) if ctx.needs_input_grad[0] else None
        to_token = ctx.uses.add(values, ctx.active, grad) if ctx.needs_input_grad[1] else None
        return to_values, to_token, None, None


class _DotActive(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, token: Tensor, shared: SharedMatrix, active: ActiveFeatures, known: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, shared.W)
        ctx.uses, ctx.active = shared.uses, active
        return _dots(x.contiguous(), active, shared.W) if known is None else known.to(shared.W.dtype, copy=True)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, W = ctx.saved_tensors
        grad, active = grad_outputs[0].contiguous(), ctx.active
        # values_ni = <x[n], W[i]>, so that with grad [entries] the gradient of x[n] is sum_i grad_ni W[i], [n_rows, d],
        # and that of W[i] the sum over rows of grad_ni x[n], [d_sae, d]
        to_x = _bag(grad, active.features, active.offsets, W) if ctx.needs_input_grad[0] else None
        to_token = ctx.uses.add(grad, active, x.contiguous()) if ctx.needs_input_grad[1] else None
        return to_x, to_token, None, None, None


def _bag(values: Tensor, features: Tensor, offsets: Tensor, W: Tensor) -> Tensor:
    return embedding_bag(features, W, offsets, mode="sum", per_sample_weights=values, include_last_offset=True)


def _dots(x: Tensor, active: ActiveFeatures, W: Tensor) -> Tensor:
    """Compute <x[n], W[i]> per entry: to torch the gradient of a bag's weights, a kernel without a public name."""
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        x, W, active.features, active.offsets[:-1], active.rows, SUM_MODE, -1
    )


def _by_feature(values: Tensor, active: ActiveFeatures, x: Tensor) -> Tensor:
    """Sum values_ni x[n] over the rows n where feature i is active: the same bag, read feature by feature."""
    order, rows, offsets = active.by_feature
    # a bag per feature, of the rows of x where it is active: [d_sae, d]
    return _bag(values[order], rows, offsets, x)


def _offsets(ascending: Tensor, n: int) -> Tensor:
    """Find where each of 0 ... n begins in a sorted list."""
    return torch.searchsorted(ascending, torch.arange(n + 1, device=ascending.device))
