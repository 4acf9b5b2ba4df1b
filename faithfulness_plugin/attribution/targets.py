"""The logits that a graph explains."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

MAX_LOGITS, PROBABILITY = 10, 0.95


def salient_logits(
    logits: Float[Tensor, " vocab"], max_logits: int = MAX_LOGITS, probability: float = PROBABILITY
) -> tuple[Int[Tensor, " logits"], Float[Tensor, " logits"]]:
    """Choose the most probable tokens: as many as together have this probability, and no more than `max_logits`.

    Args:
        logits: of one position.
        max_logits: the most that are chosen.
        probability: what they have together, if that many suffice.

    Returns:
        The tokens, most probable first, and their probabilities.

    Source: circuit-tracer 0.5.0, which chooses so by default.

    Example:
        >>> import torch
        >>> salient_logits(torch.tensor([0.1, 0.6, 0.3]).log(), probability=0.8)[0].tolist()
        [1, 2]
    """
    top, tokens = torch.softmax(logits, -1).topk(min(max_logits, len(logits)))
    enough = int(torch.searchsorted(top.cumsum(0), probability)) + 1
    return tokens[:enough], top[:enough]
