"""The linear piece of a transcoder at x: where its gates hold, t is affine, and all of its Jacobian is known."""

from dataclasses import dataclass
from functools import cached_property, singledispatch
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from faithfulness_plugin.jacobian.active import ActiveFeatures, dot_active, sum_active
from faithfulness_plugin.layer import check_probe_shape


class Weights(NamedTuple):
    """SAELens's names and shapes."""

    W_enc: Float[Tensor, "d_in d_sae"]
    W_dec: Float[Tensor, "d_sae d_out"]
    b_dec: Float[Tensor, " d_out"]
    W_skip: Float[Tensor, "d_out d_in"] | None = None

    @classmethod
    def of(cls, module: Any) -> "Weights":
        """The weights of a module that has them under these names."""
        return cls(module.W_enc, module.W_dec, module.b_dec, getattr(module, "W_skip", None))

    def add_skip(self, y: Float[Tensor, "*batch d_out"], x: Float[Tensor, "*batch d_in"]) -> Tensor:
        """y + W_skip x, or y where there is no skip connection."""
        return y if self.W_skip is None else y + x.to(self.W_skip.dtype) @ self.W_skip.T

    def add_skip_back(self, w: Float[Tensor, "*batch d_in"], u: Float[Tensor, "*batch d_out"]) -> Tensor:
        """w + W_skip^T u, or w."""
        return w if self.W_skip is None else w + u.to(self.W_skip.dtype) @ self.W_skip


@runtime_checkable
class LinearPiece(Protocol):
    """t(x + dx) = t(x) + W_dec (g * (W_enc dx)) + W_skip dx, with the gates g of x held fixed.

    Exact wherever an activation passes the pre-activation of its active features through and is 0 elsewhere: ReLU,
    JumpReLU, TopK, BatchTopK. Gradients go to W_enc, W_dec and W_skip; to b_enc and thresholds they are exactly zero,
    for those act through the gates alone, unless the gates are straight-through (`gate_bandwidth`).
    """

    @property
    def weights(self) -> Weights:
        """The transcoder's."""
        ...

    @property
    def hidden_pre(self) -> Tensor | None:
        """The pre-activations [..., d_sae], where they are at hand."""
        ...

    @property
    def feature_acts(self) -> Tensor:
        """a(x), [..., d_sae], or its rows in torch's sparse layout."""
        ...

    def decode(self) -> Float[Tensor, "*batch d_out"]:
        """W_dec a(x) + b_dec."""
        ...

    def output(self) -> Float[Tensor, "*batch d_out"]:
        """t(x) = W_dec a(x) + b_dec + W_skip x."""
        ...

    def jvp(self, v: Float[Tensor, "*probes_batch d_in"]) -> Float[Tensor, "*probes_batch d_out"]:
        """J_t v = W_dec (g * (W_enc v)) + W_skip v."""
        ...

    def vjp(self, u: Float[Tensor, "*probes_batch d_out"]) -> Float[Tensor, "*probes_batch d_in"]:
        """J_t^T u = W_enc^T (g * (W_dec^T u)) + W_skip^T u."""
        ...

    def masking(self) -> Float[Tensor, ""]:
        """Mean over rows of sum_i g_i ||W_enc^i|| ||W_dec^i||."""
        ...

    def active(self) -> ActiveFeatures:
        """Which features are active, rows flattened."""
        ...


@dataclass(frozen=True)
class DensePiece:
    """The piece of a transcoder whose activations are a matrix."""

    x: Float[Tensor, "*batch d_in"]
    feature_acts: Float[Tensor, "*batch d_sae"]
    weights: Weights
    hidden_pre: Float[Tensor, "*batch d_sae"] | None = None
    """The pre-activations, where they are at hand."""
    straight_through: Float[Tensor, "*batch d_sae"] | None = None
    """Gates that have a gradient; None for constants, 1[a > 0]."""

    @property
    def gate(self) -> Bool[Tensor, "*batch d_sae"] | Float[Tensor, "*batch d_sae"]:
        """[..., d_sae]."""
        return self.feature_acts > 0 if self.straight_through is None else self.straight_through

    def decode(self) -> Float[Tensor, "*batch d_out"]:
        return self.feature_acts @ self.weights.W_dec + self.weights.b_dec

    def output(self) -> Float[Tensor, "*batch d_out"]:
        return self.weights.add_skip(self.decode(), self.x)

    def jvp(self, v: Float[Tensor, "*probes_batch d_in"]) -> Float[Tensor, "*probes_batch d_out"]:
        check_probe_shape(self.x.shape, v)
        W_enc, W_dec, *_ = self.weights
        v = v.to(W_enc.dtype)
        Jv = ((v @ W_enc) * self.gate) @ W_dec
        return self.weights.add_skip(Jv, v)

    def vjp(self, u: Float[Tensor, "*probes_batch d_out"]) -> Float[Tensor, "*probes_batch d_in"]:
        W_enc, W_dec, *_ = self.weights
        check_probe_shape(torch.Size([*self.x.shape[:-1], W_dec.shape[1]]), u)
        u = u.to(W_enc.dtype)
        JTu = ((u @ W_dec.T) * self.gate) @ W_enc.T
        return self.weights.add_skip_back(JTu, u)

    def masking(self) -> Float[Tensor, ""]:
        slopes = self.weights.W_enc.norm(dim=0) * self.weights.W_dec.norm(dim=1)
        active = self.gate.to(slopes.dtype)
        return (active @ slopes).sum() / max(1, active[..., 0].numel())

    def active(self) -> ActiveFeatures:
        gate = self.gate.reshape(-1, self.feature_acts.shape[-1])
        return ActiveFeatures.of_flat(gate.flatten().nonzero().squeeze(-1), *gate.shape)


@dataclass(frozen=True)
class SparsePiece:
    """The piece of a transcoder whose activations are stored for active features only: no product here has the size of
    a [batch, d_sae] matrix, forward or backward.

    W_enc is read by columns. Stored feature by feature (`W_enc.T` contiguous, as TopK transcoders here have it) it is
    used as it is; otherwise it is copied at every use.
    """

    x: Float[Tensor, "*batch d_in"]
    values: Float[Tensor, " entries"]
    """a_i of each entry; entries that are 0 are not active."""
    entries: ActiveFeatures
    """Of the rows of x, flattened."""
    weights: Weights
    hidden_pre: Float[Tensor, "*batch d_sae"] | None = None
    """The pre-activations, without a graph."""

    @cached_property
    def _coo(self) -> Tensor:
        return self.entries.coo(self.values)

    @property
    def feature_acts(self) -> Tensor:
        return self._coo

    def decode(self) -> Float[Tensor, "*batch d_out"]:
        _, W_dec, b_dec, _ = self.weights
        return (sum_active(self.values, self.entries, W_dec) + b_dec).view(*self.x.shape[:-1], W_dec.shape[1])

    def output(self) -> Float[Tensor, "*batch d_out"]:
        return self.weights.add_skip(self.decode(), self.x)

    def jvp(self, v: Float[Tensor, "*probes_batch d_in"]) -> Float[Tensor, "*probes_batch d_out"]:
        check_probe_shape(self.x.shape, v)
        W_enc, W_dec, *_ = self.weights
        v = v.to(W_enc.dtype)
        Jv = self._through(v, W_enc.T.contiguous(), W_dec)
        return self.weights.add_skip(Jv, v)

    def vjp(self, u: Float[Tensor, "*probes_batch d_out"]) -> Float[Tensor, "*probes_batch d_in"]:
        W_enc, W_dec, *_ = self.weights
        check_probe_shape(torch.Size([*self.x.shape[:-1], W_dec.shape[1]]), u)
        u = u.to(W_enc.dtype)
        JTu = self._through(u, W_dec, W_enc.T.contiguous())
        return self.weights.add_skip_back(JTu, u)

    def _through(self, v: Tensor, reads: Tensor, writes: Tensor) -> Tensor:
        """v, read by the features' rows of one matrix, gated, and written by those of the other."""
        gate = self.values > 0
        several = v if v.ndim > self.x.ndim else v[None]
        products = [
            sum_active(
                dot_active(probe.reshape(self.entries.n_rows, v.shape[-1]), self.entries, reads) * gate,
                self.entries,
                writes,
            )
            for probe in several
        ]
        return torch.stack(products).view(*v.shape[:-1], writes.shape[-1])

    def masking(self) -> Float[Tensor, ""]:
        slopes = self.weights.W_enc.norm(dim=0) * self.weights.W_dec.norm(dim=1)
        return (slopes[self.entries.features] * (self.values > 0)).sum() / max(1, self.entries.n_rows)

    def active(self) -> ActiveFeatures:
        positions = self.entries.rows * self.entries.d_sae + self.entries.features
        return ActiveFeatures.of_flat(positions[self.values > 0].sort().values, self.entries.n_rows, self.entries.d_sae)


@singledispatch
def linear_piece(
    transcoder: nn.Module,
    x: Float[Tensor, "*batch d_in"],
    *,
    gate: Float[Tensor, "*batch d_sae"] | LinearPiece | None = None,
    gate_bandwidth: float | None = None,
) -> LinearPiece | None:
    """The transcoder's linear piece at x, or None for a class that is not known here.

    The one thing that the closed forms need to know of an architecture. A class of your own joins them all (products,
    exact Jacobians, gradient masking) with `linear_piece.register(MyTranscoder, my_function)`.

    Args:
        x: [..., d_in].
        gate: feature activations [..., d_sae] of a forward pass already made at x, or its piece: nothing is encoded
            again.
        gate_bandwidth: makes the gates straight-through: constants forward, and backward as if 1[z > threshold] rose
            linearly over an interval of this width around the threshold (SAELens's convention for JumpReLU). Needs the
            pre-activations, so it takes no activations in `gate`.
    """
    return None


def piece_of_activations(
    gate: Tensor | LinearPiece, x: Tensor, weights: Weights, gate_bandwidth: float | None
) -> LinearPiece:
    """The piece that a forward pass already made at x has left: itself, or made of its activations. Raises ValueError
    where a bandwidth asks for more than activations."""
    if isinstance(gate, LinearPiece):
        return gate
    if gate_bandwidth is not None:
        raise ValueError("straight-through gates need pre-activations, which activations do not hold: leave gate out")
    return DensePiece(x, gate, weights)
