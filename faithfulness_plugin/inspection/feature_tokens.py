"""Features in the model's words: the output tokens that each raises and lowers most, and the input tokens whose
embedding it reads most."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.inspection.layer_vocabulary import LayerVocabulary

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE

MOST = 6
"""Tokens of each kind."""
TOKENS_AT_A_TIME, FEATURES_AT_A_TIME = 32_768, 1024


@dataclass(frozen=True)
class MostTokens:
    """The tokens with the largest values for each feature, the largest first."""

    tokens: Int[np.ndarray, "d_sae most"]
    values: Float[np.ndarray, "d_sae most"]

    __repr__ = short_repr


@dataclass(frozen=True)
class FeatureTokens:
    """What each feature is in tokens; None for what the layer's place in the model does not give."""

    raised: MostTokens | None
    """Through the unembedding: logits for an activation of 1, see `feature_tokens`."""
    lowered: MostTokens | None
    """The same, the most negative first."""
    read: MostTokens | None
    """By how much the token's embedding alone raises the pre-activation, less the mean over all tokens."""

    __repr__ = short_repr


@torch.no_grad()
def feature_tokens(transcoder: "SAE[Any]", vocabulary: LayerVocabulary, most: int = MOST) -> FeatureTokens:
    """Find the tokens that each feature raises, lowers and reads most.

    A feature's effect on the logits is that of its direct path, past later blocks: with W_U the unembedding, g the
    final norm's weight (C takes the mean over coordinates off for a LayerNorm, and is 1 for an RMSNorm),

        effect_i = (g * C W_dec^i) W_U, less its mean over the vocabulary.

    These are the logits that an activation of 1 adds where the last residual row has size 1 (the norm divides by its
    size, which is left out), and only differences of logits count, hence the mean. A soft cap on logits is left out.

    What it reads of token t is <W_enc^i, N e_t>, with e_t the token's embedding and N the norm between the residual
    stream and the layer without its shift: as if the stream held that embedding and nothing else; less the mean over
    the vocabulary as well.

    Args:
        transcoder: of the layer.
        vocabulary: the model's tokens at this layer (`layer_vocabulary`).
        most: tokens of each kind.

    Returns:
        The tokens, and what each is raised, lowered or read by.
    """
    W_E, W_U, norm = vocabulary.model
    raised = lowered = read = None
    W_enc, W_dec = transcoder.W_enc.detach().T.float(), transcoder.W_dec.detach().float()
    if vocabulary.written is not None and W_dec.shape[1] == len(W_U):
        folded = norm.fold(vocabulary.written * W_dec)
        raised, lowered = _extreme(folded, W_U.T, most, (True, False))
    if vocabulary.norm_in is not None and W_enc.shape[1] == W_E.shape[1]:
        (read,) = _extreme(W_enc, W_E, most, (True,), vocabulary.norm_in.rows)
    return FeatureTokens(raised, lowered, read)


def _extreme(
    directions: Float[Tensor, "d_sae d"],
    tokens: Float[Tensor, "n_vocab d"],
    most: int,
    ends: Sequence[bool],
    of_rows: Callable[[Tensor], Tensor] = lambda rows: rows,
) -> list[MostTokens]:
    """Return the tokens with the largest products (True) or the smallest (False), less the mean over all tokens. Parts
    of the vocabulary are multiplied one after the other."""
    total = torch.zeros(len(directions)).to(directions)
    kept: list[list[Tensor]] = [[total[:, None][:, :0], total[:, None][:, :0].long()] for _ in ends]  # values, ids
    for start in range(0, len(tokens), TOKENS_AT_A_TIME):
        rows = of_rows(tokens[start : start + TOKENS_AT_A_TIME].to(directions))  # [tokens, d]
        total += directions @ rows.sum(0)
        found: list[list[Any]] = [[] for _ in ends]
        for some in directions.split(FEATURES_AT_A_TIME):
            products = some @ rows.T  # [features, tokens]
            for of_end, largest in zip(found, ends, strict=True):
                of_end.append(products.topk(min(most, len(rows)), dim=1, largest=largest))
        for n, largest in enumerate(ends):
            values = torch.cat([kept[n][0], torch.cat([each.values for each in found[n]])], dim=1)
            ids = torch.cat([kept[n][1], torch.cat([each.indices for each in found[n]]) + start], dim=1)
            values, order = values.topk(min(most, values.shape[1]), dim=1, largest=largest)
            kept[n] = [values, ids.gather(1, order)]
    mean = (total / len(tokens))[:, None]
    return [MostTokens(ids.cpu().numpy(), (values - mean).double().cpu().numpy()) for values, ids in kept]
