"""The layer's side of a comparison in one record, live or read back from a store."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.display import short_repr


class LayerResponse(NamedTuple):
    """The layer's side of a comparison: all that the loss needs once the layer is gone."""

    x: Float[Tensor, "*batch d_in"]
    """The rows at which the Jacobians are compared (jittered, if so configured)."""
    y: Float[Tensor, "*batch d_out"]
    """f(x), which came with the derivative."""
    v: Float[Tensor, "n_probes *batch d_probe"] | None = None
    """The probes: directions of the input, or of the output where the estimator pulls back. None for f(x) alone."""
    Jv: Float[Tensor, "n_probes *batch d_product"] | None = None
    """The layer's product along them: J v, J^T u, or a difference quotient, as the estimator has it."""
    step: Float[Tensor, ""] | float = 1.0
    """The length of the secant's step (unused by the other estimators)."""
    scale: Float[Tensor, ""] | None = None
    """The factor of the squared error: E||f - E f||^2 / E||J_f v||^2, or 1. None where no loss asked for it."""

    __repr__ = short_repr

    def to(self, where: torch.dtype | torch.device | str) -> "LayerResponse":
        """Cast every tensor to a dtype, or move it to a device.

        Args:
            where: the dtype or the device.

        Returns:
            A new response; numbers that are no tensors are kept.
        """
        return self._changed(lambda tensor: tensor.to(where))

    def trainable(self) -> "LayerResponse":
        """Copy what was made in inference mode, which no backward pass could save.

        Returns:
            The response itself within inference mode, else one without inference tensors.
        """
        if torch.is_inference_mode_enabled():
            return self
        return self._changed(lambda tensor: tensor.clone() if tensor.is_inference() else tensor)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> "LayerResponse":
        parts: list[Any] = [change(part) if isinstance(part, Tensor) else part for part in self]
        return LayerResponse(*parts)
