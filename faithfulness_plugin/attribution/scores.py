"""How much of a graph goes through features: influence, the two scores, and pruning."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from faithfulness_plugin.attribution.graph import AttributionGraph
from faithfulness_plugin.display import short_repr
from faithfulness_plugin.errors import UsageError

SMALL = 1e-10
CIRCLE = "the graph has a circle: edges must lead from earlier blocks to later ones"
ROWS = 512
"""Rows whose absolute values are held at a time."""


@dataclass(frozen=True)
class GraphScores:
    """The two scores of circuit-tracer, each between 0 and 1; 1 is best."""

    replacement: float
    """sum of B over tokens / sum of B over tokens and errors: the share of the influence on the logits, followed back
    to where it begins, that begins at tokens."""
    completeness: float
    """sum_t B'_t (1 - sum of N[t, errors]) / sum_t B'_t, with B' = B + the logits' own weights: the share of what nodes
    receive that comes from features and tokens, each node counted as much as it matters for the logits."""

    __repr__ = short_repr


@dataclass(frozen=True)
class Pruned:
    """What pruning leaves."""

    nodes: Bool[Tensor, " nodes"]
    edges: Bool[Tensor, "nodes nodes"]

    __repr__ = short_repr


def normalized(adjacency: Float[Tensor, "targets sources"]) -> Float[Tensor, "targets sources"]:
    """Compute N[t, s] = |A[t, s]| / sum_s' |A[t, s']|: the share that a source has of all that a target receives.

    Args:
        adjacency: A.

    Returns:
        N; a row of zeros stays one.
    """
    sizes = adjacency.abs()
    return sizes / sizes.sum(1, keepdim=True).clamp(min=SMALL)


def influence(adjacency: Float[Tensor, "nodes nodes"], weights: Float[Tensor, " nodes"]) -> Float[Tensor, " nodes"]:
    """Compute B = w (N + N^2 + ...): how much of what arrives at the logits has passed each node.

    Args:
        adjacency: A.
        weights: w, the probabilities of the logits, and 0 elsewhere.

    Returns:
        B; the logits' own is 0.

    Source: E. Ameisen et al., "Circuit Tracing", Transformer Circuits, 2025, on pruning; circuit-tracer 0.5.0,
    `compute_node_influence`.

    A logit that takes 3/4 from a feature, which takes all from a token, and 1/4 from that token:

        >>> import torch
        >>> adjacency = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [-3.0, 1.0, 0.0]])  # feature, token, logit
        >>> influence(adjacency, torch.tensor([0.0, 0.0, 1.0])).tolist()
        [0.75, 1.0, 0.0]
    """
    shares = normalized(adjacency)
    total, passed = torch.zeros_like(weights), weights
    for _ in range(len(weights) + 1):
        passed = passed @ shares
        if not passed.any():
            return total
        total += passed
    raise UsageError(CIRCLE)


def partial_influence(
    rows: Float[Tensor, "known sources"], chosen: Int[Tensor, " features"], probabilities: Float[Tensor, " logits"]
) -> Float[Tensor, " sources"]:
    """Compute `influence` where only the rows of the logits and of some features are known; through other features
    nothing passes.

    Args:
        rows: of the logits, then of these features.
        chosen: the features whose rows they are.
        probabilities: of the logits.

    Returns:
        B over paths whose nodes are known but for their first.
    """
    n_logits = len(probabilities)
    sizes = torch.cat([part.abs().sum(1) for part in rows.split(ROWS)]).clamp(min=SMALL)

    def step(passed: Tensor) -> Tensor:
        parts = zip((passed / sizes).split(ROWS), rows.split(ROWS), strict=True)
        return torch.stack([at @ part.abs() for at, part in parts]).sum(0)

    weights = rows.new_zeros(len(rows))
    weights[:n_logits] = probabilities
    total, passed = rows.new_zeros(rows.shape[1]), weights
    for _ in range(rows.shape[1] + 1):
        arrived = step(passed)
        if not arrived.any():
            return total
        total += arrived
        passed = torch.cat([torch.zeros_like(weights[:n_logits]), arrived[chosen]])
    raise UsageError(CIRCLE)


@torch.no_grad()
def graph_scores(graph: AttributionGraph, pruned: Pruned | None = None) -> GraphScores:
    """Compute the replacement and the completeness score of a graph.

    Args:
        graph: the graph.
        pruned: what `prune` left of it, for the scores of the pruned graph; None for all of it.

    Returns:
        Both scores; `GraphScores` says how they are defined.

    Raises:
        UsageError: a graph without any influence of tokens and errors.

    Source: E. Ameisen et al., "Circuit Tracing", Transformer Circuits, 2025; circuit-tracer 0.5.0,
    `compute_graph_scores`, whose numbers these are.
    """
    adjacency = graph.adjacency if pruned is None else graph.adjacency * pruned.edges
    weights = graph.weights
    B = influence(adjacency, weights)
    tokens, errors = B[graph.embeddings].sum(), B[graph.errors].sum()
    if not tokens + errors:
        raise UsageError("neither tokens nor errors have an influence on the logits: there is nothing to score")
    from_errors = normalized(adjacency)[:, graph.errors].sum(1)
    counted = B + weights
    completeness = ((1 - from_errors) * counted).sum() / counted.sum()
    return GraphScores((tokens / (tokens + errors)).item(), completeness.item())


@torch.no_grad()
def prune(graph: AttributionGraph, node_threshold: float = 0.8, edge_threshold: float = 0.98) -> Pruned:
    """Keep the nodes, then the edges, that carry most of the influence on the logits.

    Nodes are kept from the most influential on, until they have `node_threshold` of the sum of `influence`; tokens and
    logits always are. Of the edges between them, N[t, s] (B_t + w_t) is what each carries, and those are kept that have
    `edge_threshold` of its sum. Features and errors that then lead nowhere, and features that nothing leads to, are
    dropped until none is left.

    Args:
        graph: the graph.
        node_threshold: share of the nodes' influence, between 0 and 1.
        edge_threshold: share of the edges' influence, between 0 and 1.

    Returns:
        Which nodes and edges are left.

    Raises:
        UsageError: a threshold outside 0 to 1.

    Source: circuit-tracer 0.5.0, `prune_graph`, whose nodes and edges these are.
    """
    for name, threshold in (("node_threshold", node_threshold), ("edge_threshold", edge_threshold)):
        if not 0 <= threshold <= 1:
            raise UsageError(f"{name}={threshold}: pass a share between 0 and 1")
    B = influence(graph.adjacency, graph.weights)
    nodes = _least(B, node_threshold) <= B
    nodes[graph.embeddings.start :] = True
    between = graph.adjacency * nodes[:, None] * nodes
    carried = normalized(between) * (influence(between, graph.weights) + graph.weights)[:, None]
    edges = carried >= _least(carried.flatten(), edge_threshold)
    inner, features = graph.embeddings.start, graph.n_features
    while True:
        left = nodes.clone()
        left[:inner] &= edges[:, :inner].any(0)
        left[:features] &= edges[:features].any(1)
        if left.equal(nodes):
            return Pruned(nodes, edges)
        nodes = left
        edges &= nodes[:, None] & nodes


def _least(scores: Float[Tensor, " n"], share: float) -> Float[Tensor, ""]:
    """Find the smallest of the largest scores that together have a share of the sum."""
    ordered = scores.sort(descending=True).values
    part = ordered.cumsum(0) / ordered.sum()
    return ordered[min(int(torch.searchsorted(part, share)), len(part) - 1)]
