"""Gradient masking: large slopes from features that are barely active."""

from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.jacobian.linear_region import known_region


def gradient_masking_penalty(transcoder: nn.Module, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, ""]:
    """Average sum_i 1[a_i > 0] ||W_enc^i|| ||W_dec^i|| over rows: how much Jacobian is written by active features,
    whatever they are worth. A transcoder can match a Jacobian with features that write nothing else, so matching alone
    rewards them; this makes each one cost its slope.

    The gradient goes to W_enc and W_dec. C. Olah, "A Toy Model of Mechanistic (Un)Faithfulness", 2025, on gradient
    masking.

    Raises:
        ValueError: a module whose features are not known (see `linear_region`).
    """
    return known_region(transcoder, x).masking()
