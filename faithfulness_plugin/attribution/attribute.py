"""Build the attribution graph of a prompt."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from faithfulness_plugin.attribution.edges import EdgeRows
from faithfulness_plugin.attribution.features import prompt_features
from faithfulness_plugin.attribution.graph import AttributionGraph
from faithfulness_plugin.attribution.replaced_layers import ReplacedLayers
from faithfulness_plugin.attribution.scores import partial_influence
from faithfulness_plugin.attribution.targets import MAX_LOGITS, PROBABILITY, salient_logits
from faithfulness_plugin.errors import UsageError

MAX_FEATURES, PER_ROUND, BATCH_SIZE = 4096, 1024, 256


@torch.no_grad()
def attribute(
    replaced: ReplacedLayers,
    tokens: Int[Tensor, "prompts pos"],
    *,
    kept: Bool[Tensor, " tokens"] | None = None,
    max_features: int | None = MAX_FEATURES,
    max_logits: int = MAX_LOGITS,
    probability: float = PROBABILITY,
    per_round: int = PER_ROUND,
    batch_size: int = BATCH_SIZE,
) -> AttributionGraph:
    """Compute what features, errors and tokens add to each other and to the logits of the next token.

    With attention patterns, the scales of norms and gates as they are on this prompt, the model in which transcoders
    stand for layers, and what they leave as error is added, is linear: a target's value is the sum of what sources add
    to it and of biases. A source's direct effect goes through attention and skip connections, and ends at the features
    that read it.

    Args:
        replaced: the model's layers and transcoders (`replaced_layers`).
        tokens: one prompt.
        kept: tokens that transcoders stand for; None leaves out the first, as circuit-tracer does. What layers put out
            at the others is a constant, and no node.
        max_features: the most features that become nodes; None for all that fire. The graph takes 4 bytes times this
            times (the features that fire + tokens * (blocks + 1)) of memory while it is built.
        max_logits: as in `salient_logits`.
        probability: as in `salient_logits`.
        per_round: the nodes that are chosen before influence is computed again.
        batch_size: targets that pass a block at the same time.

    Returns:
        The graph. Where features have to be left out, those stay that influence the logits most, as far as it is known
        from the rows of the nodes that were chosen before them (`partial_influence`); the graph says how many fire.

    Raises:
        UsageError: as `prompt_features` and `Local.require_linear`; no features to be chosen.

    Source: E. Ameisen et al., "Circuit Tracing", Transformer Circuits, 2025. Nodes, edges and their choice are those of
    circuit-tracer 0.5.0 (with per_round its batch_size * update_interval); but skip connections end at tokens that are
    left out, as transcoders do.
    """
    if max_features is not None and max_features < 1:
        raise UsageError(f"max_features={max_features}: pass 1 or more, or None for all features that fire")
    features = prompt_features(replaced, tokens, kept)
    edges = EdgeRows(replaced, features, batch_size)
    logit_tokens, probabilities = salient_logits(features.logits, max_logits, probability)
    chosen, rows = _chosen(edges, logit_tokens, probabilities, max_features or edges.n_active, per_round)
    n_logits, n_features = len(logit_tokens), len(chosen)
    others = torch.arange(edges.n_active, edges.n_sources, device=chosen.device)
    n = n_features + len(others) + n_logits
    adjacency = rows.new_zeros(n, n)
    columns = torch.cat([chosen, others])
    adjacency[:n_features, : len(columns)] = rows[n_logits:][:, columns]
    adjacency[n - n_logits :, : len(columns)] = rows[:n_logits][:, columns]
    values, acts = adjacency.new_zeros(n), features.acts[chosen]
    values[:n_features] = acts.to(values)
    values[n - n_logits :] = features.logits[logit_tokens] - features.logits.mean()
    return AttributionGraph(
        tokens=tokens[0],
        features=features.table[chosen],
        acts=acts,
        n_blocks=len(replaced.layers),
        logit_tokens=logit_tokens,
        logit_probabilities=probabilities,
        adjacency=adjacency,
        values=values,
        rest=values - adjacency.sum(1),
        n_active=edges.n_active,
        without=tuple(replaced.without),
    )


def _chosen(
    edges: EdgeRows, logit_tokens: Tensor, probabilities: Tensor, most: int, per_round: int
) -> tuple[Tensor, Tensor]:
    """Choose features, and compute their rows: (which, in ascending order, rows of the logits and of these)."""
    most, n_logits = min(most, edges.n_active), len(logit_tokens)
    device = logit_tokens.device
    first = edges.of_logits(logit_tokens)
    rows = first.new_zeros(n_logits + most, edges.n_sources)
    rows[:n_logits] = first
    chosen = torch.zeros(0, dtype=torch.long, device=device)
    is_chosen = torch.zeros(edges.n_active, dtype=torch.bool, device=device)
    while len(chosen) < most:
        if most == edges.n_active:
            following = torch.arange(most, device=device)
        else:
            known = rows[: n_logits + len(chosen)]
            influence = partial_influence(known, chosen, probabilities)[: edges.n_active]
            ranked = influence.argsort(descending=True)
            following = ranked[~is_chosen[ranked]][: min(per_round, most - len(chosen))]
        done = n_logits + len(chosen)
        rows[done : done + len(following)] = edges.of_features(following)
        chosen = torch.cat([chosen, following])
        is_chosen[following] = True
    order = chosen.argsort()
    rows[n_logits:] = rows[n_logits:][order]
    return chosen[order], rows
