"""The feature graph of a cross-layer transcoder, and how much of it is the chain's own."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.benchmarks.chains.chain_task import ChainTask
from faithfulness_plugin.layers.layer_chain import Link
from faithfulness_plugin.metrics.feature_recovery import LIVE_SHARE, RECOVERED_COSINE
from faithfulness_plugin.transcoders.cross_layer_function import CrossLayerFunction

EDGE_SHARE = 0.15
"""An edge has at least this share of the strength of all edges into its target."""

Edge = tuple[str, str]


class EdgesFound(NamedTuple):
    """A feature graph held against the chain's."""

    precision: float
    """Share of its edges that the chain has; 0 for a graph without edges."""
    recall: float
    """Share of the chain's edges that it has."""

    @property
    def f1(self) -> float:
        """The harmonic mean of both."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


@torch.no_grad()
def edges_found(transcoder: CrossLayerFunction, task: ChainTask) -> EdgesFound:
    """Compare the graph of a transcoder's features with that of the chain's units, on the task's rows without points.

    A feature stands for the unit of its layer whose activations have the largest cosine with its own, where that is .9
    or more: by what it computes, wherever it writes. Several features may stand for one unit, and their edges are
    added; a feature that stands for none is a node of its own, and all its edges are wrong.

    Args:
        transcoder: cross-layer.
        task: the chain.

    Returns:
        Precision and recall of edges.
    """
    true = graph(task.exact, task)
    found = graph(transcoder, task)
    right = len(found & true)
    return EdgesFound(right / len(found) if found else 0.0, right / len(true))


@torch.no_grad()
def graph(transcoder: CrossLayerFunction, task: ChainTask) -> frozenset[Edge]:
    """List the edges from features to later layers' features, and to the last layer's output.

    From feature i of layer l to feature j of layer m, w = the sum over k of (W_dec_lk)_i (W_enc_m)_j, with k = m - 1
    where layers feed the next one, and k = l, ..., m - 1 in a residual chain; strength E[a_i 1[a_j > 0]] |w|. To
    coordinate c of the last layer's output: E[a_i] |(W_dec_lm)_ic|, m = L - 1.

    Args:
        transcoder: cross-layer.
        task: the chain.

    Returns:
        Pairs of names: "l.u" for unit u of layer l, "l:i" for a feature that stands for none, "y.c" for an output.
    """
    region, x = transcoder.region(task.clean), task.chain.split(task.clean)
    acts = [part.feature_acts.to_dense() for part in region.parts]  # [rows, n] each
    names = [name for source, a in enumerate(acts) for name in _nodes(source, a, task.units[source](x[source]))]
    writes = [part.weights.W_dec.split(region.d_out, dim=1) for part in region.parts]  # [n, d] for each layer
    W_enc = [part.weights.W_enc for part in region.parts]
    strength = _strengths(acts, writes, W_enc, task.chain.link or "feed")
    # features that write next to nothing are no nodes
    sizes = torch.cat([a.norm(dim=0) * torch.cat(tuple(w), 1).norm(dim=1) for a, w in zip(acts, writes, strict=True)])
    live = sizes > LIVE_SHARE * sizes.max()
    kept = torch.cat([live, live.new_ones(region.d_out)])
    strength = strength * live[:, None] * kept
    targets = [*names, *(f"y.{c}" for c in range(region.d_out))]
    return _edges(strength, names, targets)


def _nodes(source: int, acts: Tensor, units: Tensor) -> list[str]:
    """Name the features of one layer."""
    a, u = (t / t.norm(dim=0).clamp_min(1e-12) for t in (acts, units))
    cosines, best = (a.T @ u).max(dim=1)
    return [
        f"{source}.{unit}" if cosine >= RECOVERED_COSINE else f"{source}:{feature}"
        for feature, (cosine, unit) in enumerate(zip(cosines.tolist(), best.tolist(), strict=True))
    ]


def _strengths(
    acts: list[Tensor], writes: list[tuple[Tensor, ...]], W_enc: list[Tensor], link: Link
) -> Float[Tensor, "sources targets"]:
    n, d = len(acts), W_enc[0].shape[0]
    each = [[a.new_zeros(a.shape[1], b.shape[1]) for b in acts] + [a.new_zeros(a.shape[1], d)] for a in acts]
    for source, (a, to) in enumerate(zip(acts, writes, strict=True)):
        for m in range(source + 1, n):
            passed = to[m - 1 - source : m - source] if link == "feed" else to[: m - source]
            if passed:
                virtual = torch.stack(passed).sum(0) @ W_enc[m]  # [n, n]
                each[source][m] = virtual.abs() * (a.T @ (acts[m] > 0).to(a)) / len(a)
        if len(to) == n - source:  # it writes to the last layer
            each[source][n] = to[-1].abs() * a.mean(0)[:, None]
    return torch.cat([torch.cat(row, dim=1) for row in each])


def _edges(strength: Tensor, sources: list[str], targets: list[str]) -> frozenset[Edge]:
    """Add the strengths of features that stand for one unit, and keep the edges that count."""
    rows, columns = list(dict.fromkeys(sources)), list(dict.fromkeys(targets))
    by_source = strength.new_zeros(len(rows), len(targets))
    by_source.index_add_(0, torch.tensor([rows.index(name) for name in sources]), strength)
    joined = strength.new_zeros(len(rows), len(columns))
    joined.index_add_(1, torch.tensor([columns.index(name) for name in targets]), by_source)
    into = joined.sum(0)
    counts = (joined >= EDGE_SHARE * into) & (joined > 0) & (into > LIVE_SHARE * into.max())
    return frozenset((rows[i], columns[j]) for i, j in counts.nonzero().tolist())
