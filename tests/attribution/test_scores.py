"""Scores and pruning against sums over paths that are written out."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from faithfulness_plugin.attribution import AttributionGraph, graph_scores, prune
from faithfulness_plugin.attribution.scores import influence, normalized, partial_influence
from faithfulness_plugin.attribution.targets import salient_logits


def graph(n_blocks: int = 3, n_pos: int = 2, per_place: int = 2, n_logits: int = 2, seed: int = 0) -> AttributionGraph:
    """A random graph: every feature takes from all of earlier blocks, and from all errors and tokens before it."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.tensor(list(itertools.product(range(n_blocks), range(n_pos), range(per_place))))
    n_features, n_errors = len(features), n_blocks * n_pos
    n = n_features + n_errors + n_pos + n_logits
    blocks = torch.cat([features[:, 0], torch.arange(n_blocks).repeat_interleave(n_pos), torch.full((n_pos,), -1)])
    adjacency = torch.zeros(n, n, dtype=torch.float64)
    for target in [*range(n_features), *range(n - n_logits, n)]:
        block = int(features[target, 0]) if target < n_features else n_blocks
        before = (blocks < block).nonzero()[:, 0]
        adjacency[target, before] = torch.randn(len(before), generator=generator, dtype=torch.float64)
    return AttributionGraph(
        tokens=torch.arange(n_pos),
        features=features,
        acts=torch.ones(n_features, dtype=torch.float64),
        n_blocks=n_blocks,
        logit_tokens=torch.arange(n_logits),
        logit_probabilities=torch.tensor([0.6, 0.3], dtype=torch.float64)[:n_logits],
        adjacency=adjacency,
        values=adjacency.sum(1),
        rest=torch.zeros(n, dtype=torch.float64),
        n_active=n_features,
    )


def share_by_paths(of: AttributionGraph, node: int) -> float:
    """How much of the logits' weight arrives at a node, over all paths, one after the other."""
    shares = normalized(of.adjacency)

    def arriving(target: int, weight: float) -> float:
        total = 0.0
        for source in shares[target].nonzero()[:, 0].tolist():
            passed = weight * float(shares[target, source])
            total += passed * (source == node) + arriving(source, passed)
        return total

    return sum(arriving(i, float(of.weights[i])) for i in range(of.logits.start, of.logits.stop))


def test_influence_sums_over_paths():
    of = graph()
    B = influence(of.adjacency, of.weights)
    for node in range(0, len(B), 3):
        assert B[node].item() == pytest.approx(share_by_paths(of, node))
    # what begins at tokens and errors is all that the logits are made of
    assert (B[of.embeddings].sum() + B[of.errors].sum()).item() == pytest.approx(0.9)


def test_scores_are_shares_of_what_arrives():
    of = graph()
    found, shares = graph_scores(of), normalized(of.adjacency)
    B = torch.tensor([share_by_paths(of, node) for node in range(len(of.adjacency))], dtype=torch.float64)
    tokens, errors = B[of.embeddings].sum(), B[of.errors].sum()
    assert found.replacement == pytest.approx((tokens / (tokens + errors)).item())
    of_node = [(1 - shares[t, of.errors].sum(), B[t] + of.weights[t]) for t in range(len(B))]
    assert found.completeness == pytest.approx(float(sum(c * w for c, w in of_node) / sum(w for _, w in of_node)))


def test_a_graph_without_errors_scores_1_and_one_without_tokens_0():
    of = graph()
    of.adjacency[:, of.errors] = 0
    assert graph_scores(of).replacement == graph_scores(of).completeness == 1
    of = graph()
    of.adjacency[:, of.embeddings] = 0
    assert graph_scores(of).replacement == 0
    of.adjacency.zero_()
    with pytest.raises(ValueError, match="neither tokens nor errors have an influence"):
        graph_scores(of)


def test_partial_influence_is_influence_through_known_nodes():
    of = graph()
    chosen = torch.tensor([9, 2, 5])
    known = torch.cat([of.adjacency[of.logits], of.adjacency[chosen]])[:, : of.logits.start]
    adjacency = torch.zeros_like(of.adjacency)
    for node in [*chosen.tolist(), *range(of.logits.start, of.logits.stop)]:
        adjacency[node] = of.adjacency[node]
    expected = influence(adjacency, of.weights)[: of.logits.start]
    torch.testing.assert_close(partial_influence(known, chosen, of.logit_probabilities), expected)


def loose_ends(of: AttributionGraph, nodes: Tensor, edges: Tensor) -> list[int]:
    inner = range(of.embeddings.start)
    nowhere = [i for i in inner if nodes[i] and not edges[:, i].any()]
    return nowhere + [i for i in range(of.n_features) if nodes[i] and not edges[i].any()]


@pytest.mark.parametrize("thresholds", [(0.8, 0.98), (0.5, 0.7), (0.3, 0.4)])
def test_pruning_keeps_what_carries_most_and_no_loose_ends(thresholds):
    of = graph(n_blocks=4, seed=2)
    pruned = prune(of, *thresholds)
    assert pruned.nodes[of.embeddings.start :].all()
    assert not pruned.edges[~pruned.nodes].any()
    assert not pruned.edges[:, ~pruned.nodes].any()
    assert not loose_ends(of, pruned.nodes, pruned.edges)
    assert 0 < int(pruned.nodes[: of.embeddings.start].sum()) < of.embeddings.start
    B = influence(of.adjacency, of.weights)
    dropped = ~pruned.nodes
    assert B[dropped].max() <= B[: of.embeddings.start].max()
    scores = graph_scores(of, pruned)
    assert 0 < scores.replacement < 1
    assert scores != graph_scores(of)


def test_a_graph_that_leads_in_a_circle_is_refused():
    of = graph()
    of.adjacency[0, 1] = of.adjacency[1, 0] = 1
    with pytest.raises(ValueError, match="the graph has a circle"):
        influence(of.adjacency, of.weights)


@pytest.mark.parametrize("options", [{"node_threshold": 1.5}, {"edge_threshold": -0.1}])
def test_thresholds_are_shares(options: dict[str, Any]):
    with pytest.raises(ValueError, match="pass a share between 0 and 1"):
        prune(graph(), **options)


def test_logits_are_chosen_by_number_or_probability():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert salient_logits(logits, max_logits=2)[0].tolist() == [0, 1]
    tokens, probabilities = salient_logits(logits, probability=0.75)
    assert tokens.tolist() == [0, 1]
    torch.testing.assert_close(probabilities, torch.tensor([0.5, 0.3]))
    assert len(salient_logits(logits, max_logits=99)[0]) == 4 - 1  # 0.95 is reached before the last
