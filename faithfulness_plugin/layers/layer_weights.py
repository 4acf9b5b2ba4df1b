"""What is asked of a layer whose Jacobian has a closed form."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.layers.rank_one import RankOneSum


@runtime_checkable
class LayerWeights(Protocol):
    """A layer in terms of its weights: `MlpWeights`, or `NormedMlp` where a norm stands after the MLP."""

    @property
    def W_in(self) -> Float[Tensor, "d_in d_mlp"]:
        """The MLP's first weights, whose dtype is the layer's."""
        ...

    @property
    def W_out(self) -> Float[Tensor, "d_mlp d_out"]:
        """The MLP's last weights."""
        ...

    def output(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """f(x)."""
        ...

    def jacobian(self, x: Float[Tensor, "rows d_in"]) -> RankOneSum:
        """J_f at each row."""
        ...
