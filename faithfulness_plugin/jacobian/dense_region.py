"""The linear region of a transcoder whose activations are a matrix."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.jacobian.active import ActiveFeatures
from faithfulness_plugin.jacobian.linear_region import LinearRegion, Weights
from faithfulness_plugin.layers.row_differences import RowDifferences


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
    linear: Float[Tensor, "*batch d_sae"] | None = None
    """W_enc x + b_enc with its graph, as no hook has edited it; None where it is not known."""

    __repr__ = short_repr

    @property
    def is_active(self) -> Bool[Tensor, "*batch d_sae"]:
        """The active features, [..., d_sae]."""
        return self.acts > 0  # also for JumpReLU and TopK, whose activations are 0 where they are off

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
        return self.acts @ self.weights.W_dec + self.weights.b_dec  # [..., d_sae] @ [d_sae, d_out]

    @override
    def _push(self, v: Tensor, along: RowDifferences | None) -> Tensor:
        W_enc, W_dec, *_ = self.weights
        read = v @ W_enc if along is None or self.linear is None else along.of(self.linear)
        return (read * self.gate) @ W_dec  # [(n_probes,) ..., d_sae] in between; one gate for all probes

    @override
    def _pull(self, u: Tensor) -> Tensor:
        W_enc, W_dec, *_ = self.weights
        return ((u @ W_dec.mT) * self.gate) @ W_enc.mT

    @override
    def moved_pre(self, along: RowDifferences, step: Tensor | float) -> Tensor | None:
        return None if self.linear is None else along.moved(self.linear, step)[0]

    @property
    @override
    def trains_gates(self) -> bool:
        return self.straight_through is not None

    @override
    def _sum_of_active(self, values: Tensor) -> Tensor:
        return (self.is_active.to(values.dtype) @ values).sum()  # [..., d_sae] @ [d_sae]

    @override
    def active(self) -> ActiveFeatures:
        rows = self.is_active.reshape(-1, self.acts.shape[-1])  # [rows, d_sae]
        return ActiveFeatures.of_flat(rows.flatten().nonzero().squeeze(-1), *rows.shape)  # ascending


class SignedRegion(DenseRegion):
    """The region of a transcoder whose active features may be negative: those are active that are not 0."""

    @property
    @override
    def is_active(self) -> Bool[Tensor, "*batch d_sae"]:
        return self.acts != 0


def region_of_activations(
    gate: Tensor | LinearRegion, x: Tensor, weights: Weights, gate_bandwidth: float | None
) -> LinearRegion:
    """Return the region of a forward pass already made at x, or build it from the pass's activations.

    Args:
        gate: that region, or the activations [..., d_sae].
        x: where the pass was made.
        weights: the transcoder's.
        gate_bandwidth: the width of straight-through gates; None for constant ones.

    Returns:
        The region; dense where it is built here.

    Raises:
        ValueError: a bandwidth, and no region with straight-through gates.
    """
    require_trained_gates(gate, gate_bandwidth)
    return gate if isinstance(gate, LinearRegion) else DenseRegion(x, weights, gate)  # activations [..., d_sae]


def require_trained_gates(gate: Tensor | LinearRegion, gate_bandwidth: float | None) -> None:
    """Check that a region has straight-through gates where they are asked for.

    Args:
        gate: the region, or activations.
        gate_bandwidth: the width of straight-through gates; None for constant ones.

    Raises:
        ValueError: a bandwidth, and no region with straight-through gates.
    """
    if gate_bandwidth is not None and not (isinstance(gate, LinearRegion) and gate.trains_gates):
        raise ValueError(
            "straight-through gates need pre-activations, which activations and regions with constant gates do not "
            "hold: leave gate out, or pass a linear_region made with the same gate_bandwidth"
        )
