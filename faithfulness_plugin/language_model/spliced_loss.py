"""What a transcoder in a layer's place costs the model: cross-entropy and KL, by prompt and over all."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.metrics.next_token import ce_recovered


class Spliced(NamedTuple):
    """The model with a transcoder in a layer's place: nats a token."""

    ce: float
    ce_clean: float
    """Cross-entropy with the layer itself."""
    ce_zero: float
    """Cross-entropy with zeros there."""
    ce_recovered: float | None
    kl: float
    """KL divergence of the next token's distribution from the model's own."""


class SplicedByPrompt(NamedTuple):
    """The same prompt by prompt: nats, summed over its predicted tokens."""

    ce: Float[Tensor, " prompts"]
    ce_clean: Float[Tensor, " prompts"]
    ce_zero: Float[Tensor, " prompts"]
    kl: Float[Tensor, " prompts"]

    __repr__ = short_repr

    def per_token(self, n_predicted: int) -> Spliced:
        """Average over the predicted tokens of all prompts.

        Args:
            n_predicted: how many each prompt has.

        Returns:
            Nats a token, and the share of the layer's worth that is recovered.
        """
        n = n_predicted * len(self.ce)
        ce, clean, zero, kl = (values.sum().item() / n for values in self)
        return Spliced(ce, clean, zero, ce_recovered(zero, ce, clean), kl)
