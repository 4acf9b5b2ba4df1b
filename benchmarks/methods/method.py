"""The interface of a training method: a shipped one, or anyone's."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from faithfulness_plugin.layers.derivatives import Layer


@runtime_checkable
class Method(Protocol):
    """A small object with a name, strengths to sweep, and `train`."""

    @property
    def strengths(self) -> Sequence[float]:
        """The values of the sparsity sweep: a penalty's coefficients, or numbers of active features. Scores are read
        where the sweep passes the layer's own L0, so it should."""
        ...

    def train(self, layer: Layer, inputs: Iterator[Tensor], *, seed: int, strength: float) -> Any:
        """Train a transcoder of the layer.

        Args:
            layer: row-wise [batch, d_in] -> [batch, d_out]; differentiable, and as many calls as you like.
            inputs: endless batches [inputs.batch_size, d_in]; also says inputs.d_in and inputs.d_out.
            seed: seeds everything random: the same seed must give the same transcoder.
            strength: one of `strengths`.

        Returns:
            A module with encode [batch, d_in] -> [batch, d_sae], decode, __call__ and W_dec [d_sae, d_out], as those of
            SAELens have.
        """
        ...
