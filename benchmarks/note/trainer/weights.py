"""The weights of many toy transcoders, stacked."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class StackedWeights(NamedTuple):
    """The weights of n transcoders, or their gradients, under SAELens's names; None where the architecture has none."""

    W_enc: Float[Tensor, "*n d_in d_sae"]
    b_enc: Float[Tensor, "*n d_sae"]
    W_dec: Float[Tensor, "*n d_sae d_out"]
    b_dec: Float[Tensor, "*n d_out"]
    W_skip: Float[Tensor, "*n d_out d_in"] | None = None
    """With a skip connection."""
    threshold: Float[Tensor, "*n d_sae"] | None = None
    """JumpReLU's."""
    topk_threshold: Float[Tensor, "*n"] | None = None
    """BatchTopK's, a moving average: no gradient trains it."""

    def there(self) -> dict[str, Tensor]:
        """Those that there are, by name."""
        return {name: weight for name, weight in self._asdict().items() if weight is not None}
