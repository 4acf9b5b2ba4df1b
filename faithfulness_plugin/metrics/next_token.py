"""What a change inside a language model does to the next token that it predicts."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def cross_entropy(
    logits: Float[Tensor, "batch pos vocab"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos-1"]:
    """Compute -log p(next token), in nats, for every token but the last."""
    log_p = logits[:, :-1].float().log_softmax(-1)
    return -log_p.gather(-1, tokens[:, 1:, None]).squeeze(-1)


@torch.no_grad()
def kl_divergence(
    logits: Float[Tensor, "batch pos vocab"], changed: Float[Tensor, "batch pos vocab"]
) -> Float[Tensor, "batch pos"]:
    """Compute KL(p || q) of the next token, in nats: p the model's own prediction, q the changed one."""
    log_p, log_q = logits.float().log_softmax(-1), changed.float().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


RESOLUTION = 1e-6
"""The rounding error of a cross-entropy that is summed from single-precision logits, relative to its size."""


def ce_recovered(ce_zero: float, ce_spliced: float, ce_clean: float) -> float | None:
    """Compute (CE_zero - CE_t) / (CE_zero - CE_f).

    1 where the transcoder does as well as the layer that it replaces, 0 where it does no better than writing zeros.

    None where zeros cost nothing (up to rounding) or even help: the layer then does nothing that could be recovered,
    and with a negative denominator the worst transcoder would have the highest share.
    """
    cost = ce_zero - ce_clean
    return None if cost <= RESOLUTION * abs(ce_clean) else (ce_zero - ce_spliced) / cost


def undefined_ce_recovered(ce_zero: float, ce_clean: float) -> str:
    """Return a sentence that says why `ce_recovered` is None, for reports; "" where it is a number."""
    if ce_recovered(ce_zero, ce_zero, ce_clean) is not None:
        return ""
    return (
        f"CE recovered is undefined: zeros in the layer's place do as well as the layer (CE {ce_zero:.3f}, with the "
        f"layer {ce_clean:.3f}), so there is nothing to recover."
    )
