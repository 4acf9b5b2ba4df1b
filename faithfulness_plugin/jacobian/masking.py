"""Gradient masking: large slopes from features that are barely active."""

from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.jacobian.linear_region import known_region


def gradient_masking_penalty(transcoder: nn.Module, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, ""]:
    """Average sum_i 1[a_i > 0] ||W_enc^i|| ||W_dec^i|| over rows: how much Jacobian is written by active features,
    whatever they are worth.

    A transcoder can match a Jacobian with features that write nothing else, so matching alone rewards them; this makes
    each one cost its slope. The gradient goes to W_enc and W_dec.

    Args:
        transcoder: a transcoder whose features are known (`linear_region`).
        x: the rows.

    Returns:
        The mean, a scalar with a graph; 0 for no rows.

    Raises:
        ValueError: a module whose features are not known (see `linear_region`).

    Source: C. Olah, "A Toy Model of Mechanistic (Un)Faithfulness", Transformer Circuits, 2025, on gradient masking.

    Example:
        >>> import torch
        >>> from faithfulness_plugin import AbsNetwork
        >>> from faithfulness_plugin.toy.exact_transcoder import exact_transcoder
        >>> transcoder = exact_transcoder(AbsNetwork(4))  # each feature reads and writes with norm 1
        >>> x = torch.tensor([[0.5, -1.0, 2.0, 0.0]])  # and three are active here
        >>> gradient_masking_penalty(transcoder, x).item()
        3.0
    """
    return known_region(transcoder, x).masking()
