"""Attribution graphs of ours as the files that circuit-tracer's front end opens: `serve(data_dir=...)`."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.adapters.circuit_tracer.feature_files import read_features
from faithfulness_plugin.atomic import new_folder, write_text
from faithfulness_plugin.attribution.graph import AttributionGraph
from faithfulness_plugin.attribution.scores import Pruned, influence, prune
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.export_folder import ExportKind, require_place

LIST = "graph-metadata.json"
LOCAL = "/features"
"""A scan that begins with "/" stands for the `features_dir` of the front end, one with "./data" for its `data_dir`."""

SHOWN = ExportKind("the features of a graph", r"\d+\.json", lambda folder: folder.name.removesuffix("_features"))


@torch.no_grad()
def export_graph(
    graph: AttributionGraph,
    folder: Path | str,
    *,
    slug: str,
    token_text: Callable[[int], str] | None = None,
    scan: str | None = None,
    features: Path | None = None,
    node_threshold: float = 0.8,
    edge_threshold: float = 0.98,
    overwrite: bool = False,
) -> Path:
    """Write what pruning leaves of a graph, and put it on the folder's list of graphs.

    Args:
        graph: from `attribute`.
        folder: what `serve` gets as `data_dir`; other graphs in it stay.
        slug: the graph's name there, of letters, digits, "_", "-" and ".".
        token_text: `TokenText(tokenizer)`, or any function from a token id to its text; None shows numbers.
        scan: where the front end finds the features: a repository of the Hub, or a path, which stands for its
            `features_dir`. None is such a path.
        features: a folder of `write_circuit_tracer_features`. Those that the graph shows are put beside it, in
            SLUG_features, where the front end finds them without `features_dir`.
        node_threshold: as in `prune`.
        edge_threshold: as in `prune`.
        overwrite: replace a graph of this name.

    Returns:
        The graph's file.

    Raises:
        UsageError: a name with other letters, or of a graph that is there; a list that is none; both `scan` and
            `features`; features that are not in their folder; as `prune` and `require_place`.
        OSError: the folder cannot be written.

    Source: `create_graph_files` of circuit-tracer 0.5.0, and the models in its frontend/graph_models.py.
    """
    folder = Path(folder)
    file = folder / f"{slug}.json"
    if re.fullmatch(r"[\w.-]+", slug) is None or file.name == LIST:
        raise UsageError(f"slug={slug!r}: choose a name of letters, digits, _, - and .")
    if file.exists() and not overwrite:
        raise UsageError(f"{file} is there already: choose another slug, or replace it with overwrite=True")
    if features is not None and scan is not None:
        raise UsageError(
            f"scan={scan!r} and features={str(features)!r}: pass one of them, features are found in one place"
        )
    beside = folder / f"{slug}_features"
    if features is not None:
        require_place(beside, SHOWN, overwrite=overwrite)
    graphs = [of for of in _listed(folder / LIST) if of.get("slug") != slug]
    text = token_text or (lambda token: f"[{token}]")
    texts = getattr(text, "parts", lambda tokens: [text(t) for t in tokens])(graph.tokens.tolist())  # TokenText's
    metadata = {
        "slug": slug,
        "scan": f"./data/{beside.name}" if features is not None else scan or LOCAL,
        "transcoder_list": [],
        "prompt_tokens": texts,
        "prompt": "".join(texts),
        "node_threshold": node_threshold,
        "schema_version": 1,
    }
    pruned = prune(graph, node_threshold, edge_threshold)
    shown = _shown(graph, pruned, [text(token) for token in graph.logit_tokens.tolist()])
    view = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    if features is not None:
        wanted = graph.features[pruned.nodes[: graph.n_features]][:, [0, 2]].unique(dim=0).tolist()
        with new_folder(beside) as unfinished:
            for (block, feature), found in zip(wanted, read_features(features, wanted), strict=True):
                (unfinished / f"{_paired(block, feature)}.json").write_bytes(found)
    write_text(file, json.dumps({"metadata": metadata, "qParams": view, **shown}))
    write_text(folder / LIST, json.dumps({"graphs": [*graphs, metadata]}, indent=2))
    return file


def _shown(graph: AttributionGraph, pruned: Pruned, logits: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Describe the nodes and edges that are left; of tokens and logits all."""
    nodes = _nodes(graph, logits, _cumulative(influence(graph.adjacency, graph.weights)))
    edges = (pruned.edges & pruned.nodes[:, None] & pruned.nodes).nonzero()
    links = [
        {"source": nodes[source]["node_id"], "target": nodes[target]["node_id"], "weight": weight}
        for (target, source), weight in zip(edges.tolist(), graph.adjacency[tuple(edges.T)].tolist(), strict=True)
    ]
    linked = {end for link in links for end in (link["source"], link["target"])}
    left = [
        node
        for node, keep in zip(nodes, pruned.nodes.tolist(), strict=True)
        if keep and (node["node_id"] in linked or node["feature_type"] in ("embedding", "logit"))
    ]
    return {"nodes": left, "links": links}


def _listed(file: Path) -> list[dict[str, Any]]:
    """Return the graphs on a folder's list."""
    if not file.exists():
        return []
    try:
        return list(json.loads(file.read_text(encoding="utf-8"))["graphs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file} is no list of graphs: choose another folder") from error


def _cumulative(B: Float[Tensor, " nodes"]) -> list[float]:
    """Return for each node the share of influence that it and those of more influence have together."""
    ordered, order = B.sort(descending=True)
    shares = torch.zeros_like(B)
    shares[order] = ordered.cumsum(0) / ordered.sum()
    return shares.tolist()


def _nodes(graph: AttributionGraph, logits: list[str], shares: list[float]) -> list[dict[str, Any]]:
    """Describe all nodes, in the graph's order."""
    last, n_pos = len(graph.tokens) - 1, len(graph.tokens)
    nodes = [
        _node(f"{block}_{feature}_{position}", f"{block}_{feature}-0", block, position)
        | {"feature_type": "cross layer transcoder", "feature": _paired(block, feature), "activation": act}
        for (block, position, feature), act in zip(graph.features.tolist(), graph.acts.tolist(), strict=True)
    ]
    nodes += [
        _node(f"0_{block}_{position}", f"{block}_{position}-0", block, position)
        | {"feature_type": "mlp reconstruction error", "feature": -1}
        for block in range(graph.n_blocks)
        for position in range(n_pos)
    ]
    nodes += [
        _node(f"E_{token}_{position}", f"E_{token}-{position}", "E", position)
        | {"feature_type": "embedding", "feature": position}
        for position, token in enumerate(graph.tokens.tolist())
    ]
    for node, share in zip(nodes, shares, strict=False):
        node["influence"] = share
    top = graph.n_blocks + 1
    found = zip(graph.logit_tokens.tolist(), logits, graph.logit_probabilities.tolist(), strict=True)
    return nodes + [
        _node(f"{top}_{token}_{last}", f"L_{token}-{last}", top, last)
        | {"feature_type": "logit", "feature": token, "token_prob": probability, "is_target_logit": number == 0}
        | {"clerp": f'Output "{text}" (p={probability:.3f})'}
        for number, (token, text, probability) in enumerate(found)
    ]


def _node(node_id: str, js_node_id: str, layer: int | str, position: int) -> dict[str, Any]:
    return {
        "node_id": node_id,
        "jsNodeId": js_node_id,
        "layer": str(layer),
        "ctx_idx": position,
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "clerp": "",
        "influence": None,
        "activation": None,
    }


def _paired(block: int, feature: int) -> int:
    """Return the one number that stands for both: Cantor's pairing function."""
    return (block + feature) * (block + feature + 1) // 2 + feature
