"""The linear region of a transcoder at x: where its gates hold, t is affine, and all of its Jacobian is known."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.jacobian.active import ActiveFeatures
from faithfulness_plugin.jacobian.adapter_import import adapter_imported
from faithfulness_plugin.layers.probe_shape import check_probe_shape
from faithfulness_plugin.layers.row_differences import MovedRows, RowDifferences


class Weights(NamedTuple):
    """A transcoder's weights, by SAELens's names and in its shapes."""

    W_enc: Float[Tensor, "d_in d_sae"]
    W_dec: Float[Tensor, "d_sae d_out"]
    b_dec: Float[Tensor, " d_out"]
    W_skip: Float[Tensor, "d_out d_in"] | None = None

    __repr__ = short_repr

    @classmethod
    def of(cls, module: Any) -> "Weights":
        """Read the weights of a module that has them under these names.

        Args:
            module: anything with W_enc, W_dec and b_dec, and W_skip or not.

        Returns:
            The weights themselves, not copies.
        """
        return cls(module.W_enc, module.W_dec, module.b_dec, getattr(module, "W_skip", None))


def add_skip(
    y: Float[Tensor, "*batch d_out"], x: Float[Tensor, "*batch d_in"], W_skip: Float[Tensor, "*n d_out d_in"] | None
) -> Float[Tensor, "*batch d_out"]:
    """Add W_skip x to y where there is a skip connection.

    Args:
        y: the output without it.
        x: the input, or a direction of it; cast to the dtype of W_skip.
        W_skip: the skip connection; None for none.

    Returns:
        y + W_skip x, or y.
    """
    return y if W_skip is None else y + x.to(W_skip.dtype) @ W_skip.mT  # [..., d_in] @ [d_in, d_out]


@dataclass(frozen=True)
class LinearRegion(ABC):
    """t(x + dx) = t(x) + W_dec (g * (W_enc dx)) + W_skip dx, with the gates g of x held fixed.

    Exact wherever an activation passes the pre-activation of its active features through and is 0 elsewhere: ReLU,
    JumpReLU, TopK, BatchTopK. Gradients go to W_enc, W_dec and W_skip; to b_enc and thresholds they are exactly zero,
    for those act through the gates alone, unless the gates are straight-through (`gate_bandwidth`).
    """

    x: Float[Tensor, "*batch d_in"]
    weights: Weights

    @property
    def trains_gates(self) -> bool:
        """Whether the gates are straight-through."""
        return False

    @property
    @abstractmethod
    def feature_acts(self) -> Tensor:
        """The activations a(x), [..., d_sae], or their rows in torch's sparse layout."""

    @abstractmethod
    def decode(self) -> Float[Tensor, "*batch d_out"]:
        """Compute W_dec a(x) + b_dec, without the skip connection.

        Returns:
            The sum, with a graph to the weights and the activations.
        """

    @abstractmethod
    def _push(
        self, v: Float[Tensor, "*probes_batch d_in"], along: RowDifferences | None
    ) -> Float[Tensor, "*probes_batch d_out"]:
        """Compute sum_i g_i <W_enc_i, v> W_dec_i: without a product with W_enc where `along` says which rows v is a
        difference of, and W_enc x is known."""

    @abstractmethod
    def _pull(self, u: Float[Tensor, "*probes_batch d_out"]) -> Float[Tensor, "*probes_batch d_in"]:
        """Compute sum_i g_i <W_dec_i, u> W_enc_i."""

    @abstractmethod
    def _sum_of_active(self, values: Float[Tensor, " d_sae"]) -> Float[Tensor, ""]:
        """Sum 1[a_i > 0] values_i over features and rows."""

    @abstractmethod
    def active(self) -> ActiveFeatures:
        """Index the active features, rows flattened.

        Returns:
            The index, without entries of features that are not active.
        """

    def output(self) -> Float[Tensor, "*batch d_out"]:
        """Compute t(x) = W_dec a(x) + b_dec + W_skip x.

        Returns:
            The output, with a graph.
        """
        return add_skip(self.decode(), self.x, self.weights.W_skip)  # [..., d_out]

    def moved_pre(
        self, along: RowDifferences, step: Tensor | float
    ) -> Float[Tensor, "*batch d_sae"] | MovedRows | None:
        """Compute the pre-activations of x + step v without a product with W_enc.

        Args:
            along: one probe, which says between which rows of x each direction v goes.
            step: the step's length, in units of v.

        Returns:
            W_enc (x + step v) + b_enc, with the graph that W_enc x has here, or what computes it part by part; None
            where W_enc x is not known.
        """
        del along, step

    def jvp(
        self, v: Float[Tensor, "*probes_batch d_in"], along: RowDifferences | None = None
    ) -> Float[Tensor, "*probes_batch d_out"]:
        """Compute J_t v = W_dec (g * (W_enc v)) + W_skip v.

        Args:
            v: one probe for each row, of x's shape, or several, with n_probes in front; cast to the weights' dtype.
            along: which rows of x the probes are differences of, where they are: then W_enc v is a difference of
                pre-activations, and costs no product.

        Returns:
            J_t v, with a graph to W_enc, W_dec and W_skip.

        Raises:
            ValueError: v does not fit x.
        """
        check_probe_shape(self.x.shape, v)
        v = v.to(self.weights.W_enc.dtype)  # [n_probes, ..., d_in]
        # W_enc v [n_probes, ..., d_sae], gated and written
        return add_skip(
            self._push(v, along), v, self.weights.W_skip
        )  # the skip connection is linear: it passes v as it passes x

    def vjp(self, u: Float[Tensor, "*probes_batch d_out"]) -> Float[Tensor, "*probes_batch d_in"]:
        """Compute J_t^T u = W_enc^T (g * (W_dec^T u)) + W_skip^T u.

        Args:
            u: one direction of the output for each row, or several, with n_probes in front; cast to the weights' dtype.

        Returns:
            J_t^T u, with a graph to W_enc, W_dec and W_skip.

        Raises:
            ValueError: u does not fit t(x).
        """
        W_enc, W_dec, _, W_skip = self.weights
        check_probe_shape(torch.Size([*self.x.shape[:-1], W_dec.shape[-1]]), u)  # u is as wide as the output
        u = u.to(W_enc.dtype)  # [n_probes, ..., d_out]
        JTu = self._pull(u)  # the same sum, with what is read and written exchanged
        return JTu if W_skip is None else JTu + u @ W_skip  # [..., d_out] @ [d_out, d_in]

    def masking(self) -> Float[Tensor, ""]:
        """Average sum_i 1[a_i > 0] ||W_enc^i|| ||W_dec^i|| over rows (`gradient_masking_penalty`).

        Returns:
            The mean, with a graph to W_enc and W_dec; 0 for no rows.
        """
        slopes = self.weights.W_enc.norm(dim=0) * self.weights.W_dec.norm(dim=1)  # [d_sae]
        return self._sum_of_active(slopes) / max(1, self.x[..., 0].numel())  # rows, however many dimensions


@singledispatch
def linear_region(
    transcoder: nn.Module,
    x: Float[Tensor, "*batch d_in"],
    *,
    gate: Float[Tensor, "*batch d_sae"] | LinearRegion | None = None,
    gate_bandwidth: float | None = None,
) -> LinearRegion | None:
    """Find the transcoder's linear region at x, or None for a class that is not known here.

    The one thing that the closed forms need to know of an architecture. A class of your own joins them all (products,
    exact Jacobians, gradient masking) with `linear_region.register(MyTranscoder, my_function)`.

    Args:
        transcoder: an instance of a registered class, of a known library's class, or any other module.
        x: where the gates are taken.
        gate: feature activations [..., d_sae] of a forward pass already made at x, or its region: nothing is encoded
            again.
        gate_bandwidth: makes the gates straight-through: constants forward, and backward as if 1[z > threshold] rose
            linearly over an interval of this width around the threshold (SAELens's convention for JumpReLU). Needs the
            pre-activations, so it takes no activations in `gate`.

    Returns:
        The region, with a graph to the transcoder's parameters; None for an unknown class.
    """
    if adapter_imported(type(transcoder)):
        return linear_region(transcoder, x, gate=gate, gate_bandwidth=gate_bandwidth)  # now registered
    return None


def known_region(
    transcoder: nn.Module, x: Float[Tensor, "*batch d_in"], *, gate: Float[Tensor, "*batch d_sae"] | None = None
) -> LinearRegion:
    """Find the transcoder's `linear_region` at x, and refuse a class that has none.

    Args:
        transcoder: as in `linear_region`.
        x: where the gates are taken.
        gate: activations at x, where they are known.

    Returns:
        The region.

    Raises:
        ValueError: a class without a region; the message says how to register one.
    """
    region = linear_region(transcoder, x, gate=gate)
    if region is None:
        raise ValueError(
            f"the features of {type(transcoder).__name__} are not known: register its linear region "
            "(faithfulness_plugin.jacobian.linear_region)"
        )
    return region
