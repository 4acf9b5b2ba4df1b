"""The linear region of a transcoder at x: where its gates hold, t is affine, and all of its Jacobian is known."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, singledispatch
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from faithfulness_plugin.jacobian.active import ActiveFeatures, dot_active, sum_active
from faithfulness_plugin.jacobian.adapter_import import adapter_imported
from faithfulness_plugin.layers.derivatives import check_probe_shape


class Weights(NamedTuple):
    """A transcoder's weights, by SAELens's names and in its shapes."""

    W_enc: Float[Tensor, "d_in d_sae"]
    W_dec: Float[Tensor, "d_sae d_out"]
    b_dec: Float[Tensor, " d_out"]
    W_skip: Float[Tensor, "d_out d_in"] | None = None

    @classmethod
    def of(cls, module: Any) -> "Weights":
        """Read the weights of a module that has them under these names."""
        return cls(module.W_enc, module.W_dec, module.b_dec, getattr(module, "W_skip", None))


def add_skip(
    y: Float[Tensor, "*batch d_out"], x: Float[Tensor, "*batch d_in"], W_skip: Float[Tensor, "*n d_out d_in"] | None
) -> Float[Tensor, "*batch d_out"]:
    """Add W_skip x to y where there is a skip connection."""
    return y if W_skip is None else y + x.to(W_skip.dtype) @ W_skip.mT


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
        """Compute W_dec a(x) + b_dec."""

    @abstractmethod
    def through(
        self, v: Float[Tensor, "*probes_batch d"], reads: Float[Tensor, "d_sae d"], writes: Float[Tensor, "d_sae e"]
    ) -> Float[Tensor, "*probes_batch e"]:
        """Compute sum_i g_i <reads_i, v> writes_i."""

    @abstractmethod
    def sum_of_active(self, values: Float[Tensor, " d_sae"]) -> Float[Tensor, ""]:
        """Sum 1[a_i > 0] values_i over features and rows."""

    @abstractmethod
    def active(self) -> ActiveFeatures:
        """Index the active features, rows flattened."""

    def output(self) -> Float[Tensor, "*batch d_out"]:
        """Compute t(x) = W_dec a(x) + b_dec + W_skip x."""
        return add_skip(self.decode(), self.x, self.weights.W_skip)

    def jvp(self, v: Float[Tensor, "*probes_batch d_in"]) -> Float[Tensor, "*probes_batch d_out"]:
        """Compute J_t v = W_dec (g * (W_enc v)) + W_skip v. Raises ValueError for v that does not fit x."""
        check_probe_shape(self.x.shape, v)
        W_enc, W_dec, _, W_skip = self.weights
        v = v.to(W_enc.dtype)
        return add_skip(self.through(v, W_enc.mT, W_dec), v, W_skip)

    def vjp(self, u: Float[Tensor, "*probes_batch d_out"]) -> Float[Tensor, "*probes_batch d_in"]:
        """Compute J_t^T u = W_enc^T (g * (W_dec^T u)) + W_skip^T u. Raises ValueError for u that does not fit t(x)."""
        W_enc, W_dec, _, W_skip = self.weights
        check_probe_shape(torch.Size([*self.x.shape[:-1], W_dec.shape[-1]]), u)
        u = u.to(W_enc.dtype)
        JTu = self.through(u, W_dec, W_enc.mT)
        return JTu if W_skip is None else JTu + u @ W_skip

    def masking(self) -> Float[Tensor, ""]:
        """Average sum_i 1[a_i > 0] ||W_enc^i|| ||W_dec^i|| over rows."""
        slopes = self.weights.W_enc.norm(dim=0) * self.weights.W_dec.norm(dim=1)
        return self.sum_of_active(slopes) / max(1, self.x[..., 0].numel())


@dataclass(frozen=True)
class DenseRegion(LinearRegion):
    """The region of a transcoder whose activations are a matrix.

    Its outputs and products are also those of n transcoders stacked, each at rows of its own: x [n, batch, d_in], acts
    [n, batch, d_sae], and weights with n in front (b_dec as [n, 1, d_out]).
    """

    acts: Float[Tensor, "*batch d_sae"]
    hidden_pre: Float[Tensor, "*batch d_sae"] | None = None
    """The pre-activations, where they are known."""
    straight_through: Float[Tensor, "*batch d_sae"] | None = None
    """Gates that have a gradient; None for constants, 1[a > 0]."""

    @property
    def is_active(self) -> Bool[Tensor, "*batch d_sae"]:
        """The active features, [..., d_sae]."""
        return self.acts > 0

    @property
    def gate(self) -> Bool[Tensor, "*batch d_sae"] | Float[Tensor, "*batch d_sae"]:
        """The gates, [..., d_sae]."""
        return self.is_active if self.straight_through is None else self.straight_through

    @property
    @override
    def feature_acts(self) -> Tensor:
        return self.acts

    @override
    def decode(self) -> Float[Tensor, "*batch d_out"]:
        return self.acts @ self.weights.W_dec + self.weights.b_dec

    @override
    def through(self, v: Tensor, reads: Tensor, writes: Tensor) -> Tensor:
        return ((v @ reads.mT) * self.gate.to(v.dtype)) @ writes

    @property
    @override
    def trains_gates(self) -> bool:
        return self.straight_through is not None

    @override
    def sum_of_active(self, values: Tensor) -> Tensor:
        return (self.is_active.to(values.dtype) @ values).sum()

    @override
    def active(self) -> ActiveFeatures:
        rows = self.is_active.reshape(-1, self.acts.shape[-1])
        return ActiveFeatures.of_flat(rows.flatten().nonzero().squeeze(-1), *rows.shape)


class SignedRegion(DenseRegion):
    """The region of a transcoder whose active features may be negative: those are active that are not 0."""

    @property
    @override
    def is_active(self) -> Bool[Tensor, "*batch d_sae"]:
        return self.acts != 0


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
    def through(self, v: Tensor, reads: Tensor, writes: Tensor) -> Tensor:
        gate, reads, writes = self.values > 0, reads.contiguous(), writes.contiguous()
        each = v if v.ndim > self.x.ndim else v[None]
        rows = [probe.reshape(self.entries.n_rows, v.shape[-1]) for probe in each]
        products = [sum_active(dot_active(probe, self.entries, reads) * gate, self.entries, writes) for probe in rows]
        return torch.stack(products).view(*v.shape[:-1], writes.shape[-1])

    @override
    def sum_of_active(self, values: Tensor) -> Tensor:
        return (values.index_select(0, self.entries.features) * (self.values > 0)).sum()

    @override
    def active(self) -> ActiveFeatures:
        positions = self.entries.positions[self.values > 0].sort().values
        return ActiveFeatures.of_flat(positions, self.entries.n_rows, self.entries.d_sae)


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
        x: [..., d_in].
        gate: feature activations [..., d_sae] of a forward pass already made at x, or its region: nothing is encoded
            again.
        gate_bandwidth: makes the gates straight-through: constants forward, and backward as if 1[z > threshold] rose
            linearly over an interval of this width around the threshold (SAELens's convention for JumpReLU). Needs the
            pre-activations, so it takes no activations in `gate`.
    """
    if adapter_imported(type(transcoder)):
        return linear_region(transcoder, x, gate=gate, gate_bandwidth=gate_bandwidth)
    return None


def known_region(
    transcoder: nn.Module, x: Float[Tensor, "*batch d_in"], *, gate: Float[Tensor, "*batch d_sae"] | None = None
) -> LinearRegion:
    """Return the transcoder's `linear_region` at x. Raises ValueError for a class that has none."""
    region = linear_region(transcoder, x, gate=gate)
    if region is None:
        raise ValueError(
            f"the features of {type(transcoder).__name__} are not known: register its linear region "
            "(faithfulness_plugin.jacobian.linear_region)"
        )
    return region


def region_of_activations(
    gate: Tensor | LinearRegion, x: Tensor, weights: Weights, gate_bandwidth: float | None
) -> LinearRegion:
    """Return the region of a forward pass already made at x, or build it from the pass's activations. Raises ValueError
    where a bandwidth asks for more than activations."""
    if gate_bandwidth is not None and not (isinstance(gate, LinearRegion) and gate.trains_gates):
        raise ValueError(
            "straight-through gates need pre-activations, which activations and regions with constant gates do not "
            "hold: leave gate out, or pass a linear_region made with the same gate_bandwidth"
        )
    return gate if isinstance(gate, LinearRegion) else DenseRegion(x, weights, gate)
