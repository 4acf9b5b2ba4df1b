"""The encoder of all transcoders here: from pre-activations to activations and the linear region."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.jacobian.dense_region import DenseRegion
from faithfulness_plugin.jacobian.estimators.secant import PreActivations, region_there
from faithfulness_plugin.jacobian.linear_region import LinearRegion, Weights
from faithfulness_plugin.jacobian.sparse_region import SparseRegion
from faithfulness_plugin.layers.row_differences import MovedRows


class Encoder(ABC):
    """The part of a transcoder that reads: W_enc x + b_enc, its hooks, and which features are active."""

    W_enc: nn.Parameter
    b_enc: nn.Parameter
    if TYPE_CHECKING:  # SAELens's
        hook_sae_acts_pre: Any
        hook_sae_acts_post: Any

        def process_sae_in(self, sae_in: Tensor) -> Tensor: ...

    @abstractmethod
    def straight_through_gate(
        self, feature_acts: Float[Tensor, "*batch d_sae"], hidden_pre: Float[Tensor, "*batch d_sae"], bandwidth: float
    ) -> Float[Tensor, "*batch d_sae"]:
        """Make gates 1[a > 0] whose gradient is that of a smoothed step at the architecture's threshold.

        Args:
            feature_acts: the activations a.
            hidden_pre: the pre-activations, which get the gradient.
            bandwidth: the width of the smoothed step, in units of the pre-activations.

        Returns:
            The gates, 0 or 1.
        """

    @abstractmethod
    def activate(self, hidden_pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Compute the activations.

        Args:
            hidden_pre: the pre-activations, past their hook.

        Returns:
            The activations, before theirs.
        """

    def prepare_step(self) -> None:
        """Put weights where they may be, before a training step."""
        return

    def finish_step(self, feature_acts: Float[Tensor, "*batch d_sae"]) -> dict[str, Any]:
        """Learn what is not learned by gradients, after a training step.

        Args:
            feature_acts: the step's activations, or their rows in torch's sparse layout.

        Returns:
            What is logged of it, by name.
        """
        del feature_acts
        return {}

    def pre_activations(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Compute W_enc x + b_enc.

        Args:
            x: the rows, cast to the weights' dtype.

        Returns:
            The pre-activations, before any hook.
        """
        return self.process_sae_in(x) @ self.W_enc + self.b_enc  # [..., d_sae]

    def encode_with_hidden_pre(
        self, x: Float[Tensor, "*batch d_in"]
    ) -> tuple[Float[Tensor, "*batch d_sae"], Float[Tensor, "*batch d_sae"]]:
        """Encode x.

        Args:
            x: the rows.

        Returns:
            The activations and the pre-activations, each past its hook.
        """
        return self._activate(self.pre_activations(x), self.activate)

    def _activate(self, linear: Tensor, activate: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Return (activations, pre-activations), each past its hook."""
        hidden_pre = self.hook_sae_acts_pre(linear)
        return self.hook_sae_acts_post(activate(hidden_pre)), hidden_pre

    def encode_to_region(
        self,
        x: Float[Tensor, "*batch d_in"],
        gate_bandwidth: float | None = None,
        linear: Float[Tensor, "*batch d_sae"] | MovedRows | None = None,
        start: LinearRegion | None = None,
    ) -> DenseRegion | SparseRegion:
        """Encode x once, for outputs and derivatives alike, with its `hidden_pre`.

        Args:
            x: the rows.
            gate_bandwidth: the width of straight-through gates; None for constant ones.
            linear: W_enc x + b_enc, where it is known.
            start: the region of this step from which x moved, whose products share their gradients with these.

        Returns:
            The linear region at x, with a graph.
        """
        del start
        linear = self._whole(x, linear)
        feature_acts, hidden_pre = self._activate(linear, self.activate)
        return self._dense_region(x, linear, feature_acts, hidden_pre, gate_bandwidth)

    def _whole(self, x: Tensor, linear: PreActivations) -> Float[Tensor, "*batch d_sae"]:
        if linear is None:
            return self.pre_activations(x)
        return linear.whole().view(*x.shape[:-1], -1) if isinstance(linear, MovedRows) else linear

    def _dense_region(
        self, x: Tensor, linear: Tensor, feature_acts: Tensor, hidden_pre: Tensor, gate_bandwidth: float | None = None
    ) -> DenseRegion:
        gate = None  # constants, 1[a > 0]
        if gate_bandwidth is not None:
            gate = self.straight_through_gate(feature_acts, hidden_pre, gate_bandwidth)
        return DenseRegion(x, Weights.of(self), feature_acts, hidden_pre, gate, linear)


@region_there.register
def _region_there(transcoder: Encoder, moved: Tensor, hidden_pre: PreActivations, start: LinearRegion) -> LinearRegion:
    return transcoder.encode_to_region(moved, linear=hidden_pre, start=start)
