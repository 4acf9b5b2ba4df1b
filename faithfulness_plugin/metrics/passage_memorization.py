"""Memorization of a passage: how much of the output there comes from features that fire there alone."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.metrics.result import MetricResult, Transcoder, check_same_shape

RARE = 1e-3


@dataclass(frozen=True)
class PassageMemorization(MetricResult):
    """What one transcoder memorizes at the tokens of one passage."""

    share: float
    """The share of the output at the passage that its own features carry: 1 where they write all of it."""
    own_features: int
    """How many features fire at some token of the passage and hardly anywhere else."""
    features: tuple[int, ...]
    """The features that fire at the passage."""
    rate_elsewhere: tuple[float, ...]
    """The share of the other rows where each of these fires."""
    carried: tuple[float, ...]
    """What each of these carries, as a part of the passage's output; with all others, bias and skip connection they sum
    to what the transcoder explains there."""


@torch.no_grad()
def passage_memorization(
    transcoder: Transcoder,
    layer: Layer,
    passage: Float[Tensor, "tokens d_in"],
    others: Float[Tensor, "rows d_in"],
    *,
    rare: float = RARE,
) -> PassageMemorization:
    """Measure how much of the output at a passage comes from features that fire there and hardly anywhere else.

    It asks of a passage of text what `memorization` asks of a point, where no ideal circuits are known. Feature i
    carries sum_p <c_i(p), u_p> / sum_p ||u_p||^2, with c_i(p) = a_i(p) W_dec^i, and u_p = f(p) - E f what the layer
    writes at p beyond its mean elsewhere. The passage's own features fire on at most the share `rare` of the other
    rows; the share of memorization is what they carry together.

    Read it beside the same number for a transcoder that saw the passage no oftener than other text: rare features that
    serve what the passage is about are no memorization.

    Args:
        transcoder: with `encode`, `decode` and `W_dec`.
        layer: the function that it replaces.
        passage: the layer's inputs at the passage's tokens.
        others: the layer's inputs on other text, 1 / rare rows or more.
        rare: the largest firing rate on other rows that counts as "hardly anywhere".

    Returns:
        The share, and the firing rate and carried part of every feature that fires at the passage.

    Raises:
        ValueError: too few other rows to tell what is rare; transcoder and layer differ in d_out; outputs at the
            passage that equal those everywhere.

    Where one feature fires at the passage alone and writes its output, all of it is memorized:

        >>> import torch
        >>> from faithfulness_plugin.toy.abs_network import AbsNetwork
        >>> from faithfulness_plugin.toy.exact_transcoder import exact_transcoder
        >>> layer = AbsNetwork(2)
        >>> passage, others = torch.tensor([[3.0, 0.0]]), torch.zeros(10, 2)
        >>> found = passage_memorization(exact_transcoder(layer), layer, passage, others, rare=0.1)
        >>> found.own_features, found.features, round(found.share, 2)
        (1, (0,), 1.0)
    """
    if len(others) * rare < 1:
        raise ValueError(f"{len(others)} other rows cannot show what fires on {rare:g} of them: pass 1 / rare or more")
    y, elsewhere = layer(passage), layer(others)
    # u_p, [tokens, d_out]
    beyond = y - elsewhere.mean(0)
    energy = beyond.square().sum()
    if energy == 0:
        raise ValueError("the layer's output at the passage is the same as everywhere: choose another passage")
    acts = transcoder.encode(passage)
    check_same_shape(transcoder.decode(acts), y)
    # acts [tokens, d_sae], beyond @ W_dec^T [tokens, d_sae]: <c_i(p), u_p>, then summed over tokens
    carried = (acts * (beyond.to(acts) @ transcoder.W_dec.T)).sum(0) / energy
    fires = (acts > 0).any(0)
    # [d_sae], 1,024 rows at a time: activations of all rows do not fit
    count = torch.stack([(transcoder.encode(rows) > 0).sum(0) for rows in others.split(1024)]).sum(0)
    rate, own = count.double() / len(others), fires & (count <= rare * len(others))
    return PassageMemorization(
        share=carried[own].sum().item(),
        own_features=int(own.sum()),
        features=tuple(fires.nonzero().flatten().tolist()),
        rate_elsewhere=tuple(rate[fires].tolist()),
        carried=tuple(carried[fires].tolist()),
    )
