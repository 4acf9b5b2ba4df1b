"""What a change inside a language model does to the next token that it predicts."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def cross_entropy(
    logits: Float[Tensor, "batch pos vocab"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos-1"]:
    """Compute -log p(next token) for every token but the last.

    Args:
        logits: of the model at every position.
        tokens: the prompts.

    Returns:
        Nats a token.

    Equal logits for 8 tokens cost log 8:

        >>> import torch
        >>> cross_entropy(torch.zeros(1, 3, 8), torch.tensor([[1, 2, 3]])) / torch.log(torch.tensor(8.0))
        tensor([[1., 1.]])
    """
    return _of_tokens(logits[:, :-1].float().log_softmax(-1), tokens)


@torch.no_grad()
def kl_divergence(
    logits: Float[Tensor, "batch pos vocab"], changed: Float[Tensor, "batch pos vocab"]
) -> Float[Tensor, "batch pos"]:
    """Compute KL(p || q) of the next token, p the model's own prediction and q the changed one.

    Args:
        logits: of the model as it is.
        changed: of the changed model.

    Returns:
        Nats at every position.

    Halving a certain prediction's probability costs log 2:

        >>> import torch
        >>> certain, halved = torch.tensor([[[0.0, -1e9]]]), torch.zeros(1, 1, 2)
        >>> kl_divergence(certain, halved) / torch.log(torch.tensor(2.0))
        tensor([[1.]])
    """
    log_p, log_q = logits.float().log_softmax(-1), changed.float().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


class NextToken:
    """What a model predicts of the next tokens, for many changed models to be compared with: its own part is computed
    once.

    Args:
        logits: of the model at every position.
        tokens: the prompts.
    """

    @torch.no_grad()
    def __init__(self, logits: Float[Tensor, "batch pos vocab"], tokens: Int[Tensor, "batch pos"]) -> None:
        self.tokens, self._log_p = tokens, logits[:, :-1].float().log_softmax(-1)
        self._p = self._log_p.exp()
        self.cross_entropy: Float[Tensor, "batch pos-1"] = _of_tokens(self._log_p, tokens)
        """-log p(next token)."""

    @torch.no_grad()
    def compare(
        self, changed: Float[Tensor, "batch pos vocab"]
    ) -> tuple[Float[Tensor, "batch pos-1"], Float[Tensor, "batch pos-1"]]:
        """Compute the cross-entropy and the KL divergence of changed predictions.

        Args:
            changed: logits of the changed model.

        Returns:
            `cross_entropy(changed, tokens)`, and `kl_divergence(logits, changed)` for every token but the last.
        """
        log_q = changed[:, :-1].float().log_softmax(-1)
        return _of_tokens(log_q, self.tokens), (self._p * (self._log_p - log_q)).sum(-1)


def _of_tokens(log_p: Float[Tensor, "batch predicted vocab"], tokens: Int[Tensor, "batch pos"]) -> Tensor:
    """Return -log p(next token): position i predicts token i + 1, [batch, pos - 1, 1] -> [batch, pos - 1]."""
    return -log_p.gather(-1, tokens[:, 1:, None]).squeeze(-1)


RESOLUTION = 1e-6
"""The rounding error of a cross-entropy that is summed from single-precision logits, relative to its size."""


def ce_recovered(ce_zero: float, ce_spliced: float, ce_clean: float) -> float | None:
    """Compute (CE_zero - CE_t) / (CE_zero - CE_f), the share of the layer's worth that a transcoder keeps.

    1 where the transcoder does as well as the layer that it replaces, 0 where it does no better than writing zeros.

    Args:
        ce_zero: cross-entropy with zeros in the layer's place, in nats a token.
        ce_spliced: CE_t, with the transcoder there.
        ce_clean: CE_f, of the model as it is.

    Returns:
        The share; None where zeros cost nothing (up to rounding) or even help: the layer then does nothing that could
        be recovered, and with a negative denominator the worst transcoder would have the highest share.

        >>> ce_recovered(ce_zero=4.0, ce_spliced=3.5, ce_clean=3.0)
        0.5
    """
    cost = ce_zero - ce_clean
    return None if cost <= RESOLUTION * abs(ce_clean) else (ce_zero - ce_spliced) / cost


def undefined_ce_recovered(ce_zero: float, ce_clean: float) -> str:
    """Explain why `ce_recovered` is None, for reports.

    Args:
        ce_zero: cross-entropy with zeros in the layer's place, in nats a token.
        ce_clean: cross-entropy of the model as it is.

    Returns:
        A sentence, or "" where `ce_recovered` is a number.
    """
    if ce_recovered(ce_zero, ce_zero, ce_clean) is not None:
        return ""
    return (
        f"CE recovered is undefined: zeros in the layer's place do as well as the layer (CE {ce_zero:.3f}, with the "
        f"layer {ce_clean:.3f}), so there is nothing to recover."
    )
