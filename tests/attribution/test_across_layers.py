"""Graphs with a cross-layer transcoder in the layers' places."""

from typing import Any

import pytest
import tiny_models
import torch
from held_twin import HeldTwin
from oracles import random_transcoder
from torch import Tensor

from faithfulness_plugin import (
    CrossLayerTrainingTranscoder,
    CrossLayerTrainingTranscoderConfig,
    TopKTrainingTranscoderConfig,
)
from faithfulness_plugin.attribution import attribute, replaced_layers
from faithfulness_plugin.attribution.effects import EffectTargets, measured_effects, predicted_effects
from faithfulness_plugin.attribution.features import prompt_features
from faithfulness_plugin.attribution.interventions import Intervention, draw_interventions
from faithfulness_plugin.attribution.targets import salient_logits
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.layers.any_model import hooks_of
from faithfulness_plugin.transcoders.layer_views import layer_views

KEPT = torch.arange(6) != 0


def prompt() -> Tensor:
    return tiny_models.tokens()[:1]


def cross_layer(n_layers: int, **fields: Any) -> Any:
    torch.manual_seed(4)
    each = TopKTrainingTranscoderConfig(d_in=16, d_out=16, d_sae=40, dtype="float64", k=5)
    cfg = CrossLayerTrainingTranscoderConfig(n_layers=n_layers, per_layer=each, **fields)
    made = CrossLayerTrainingTranscoder(cfg).eval().requires_grad_(False)
    made.b_dec.normal_(std=0.3)
    return made


def views(n_layers: int, **fields: Any) -> dict[int, Any]:
    return dict(enumerate(layer_views(cross_layer(n_layers, **fields))))


@pytest.mark.parametrize("fields", [{}, {"tied": True}, {"bandwidth": 2}], ids=str)
@pytest.mark.parametrize(
    ("norm", "options"),
    [("RMS", {"positional_embedding_type": "rotary", "rotary_dim": 8}), ("LN", {"parallel_attn_mlp": True})],
)
def test_edges_are_what_the_twin_loses_without_a_source_at_all_layers_it_writes_to(norm, options, fields):
    torch.manual_seed(1)
    model, of = tiny_models.hooked(norm, n_layers=3, **options), views(3, **fields)
    graph = attribute(replaced_layers(model, of), prompt(), max_features=None, batch_size=7)
    twin = HeldTwin(model, of, prompt(), KEPT)
    assert [[f.block, f.position, f.feature] for f in twin.features] == graph.features.tolist()
    left_out = [*range(graph.errors.start, graph.errors.stop, 6)]  # the twin has no error at a token that is left out
    columns = [i for i in range(graph.logits.start) if i not in left_out]
    rows = torch.cat([graph.adjacency[: graph.n_features], graph.adjacency[graph.logits]])
    expected, rest = twin.rows(graph.logit_tokens)
    torch.testing.assert_close(rows[:, columns], expected)
    torch.testing.assert_close(torch.cat([graph.rest[: graph.n_features], graph.rest[graph.logits]]), rest)
    assert not graph.adjacency[:, left_out].any()


@pytest.mark.parametrize("fields", [{}, {"bandwidth": 2}], ids=str)
def test_predicted_effects_are_sums_over_all_paths_of_the_graph(fields):
    torch.manual_seed(1)
    replaced = replaced_layers(tiny_models.hooked("RMS", n_layers=4), views(4, **fields))
    features, graph = prompt_features(replaced, prompt()), attribute(replaced, prompt(), max_features=None)
    targets = EffectTargets(salient_logits(features.logits)[0], torch.arange(len(features.table)))
    interventions = [of for of in draw_interventions(features, 8, seed=2) if of.kind != "input"]
    predicted = predicted_effects(replaced, features, interventions, targets)
    total = graph.total_effects()
    nodes = torch.tensor([*range(graph.logits.start, graph.logits.stop), *range(graph.n_features)])
    names = [tuple(row) for row in graph.features.tolist()]
    for row, of in zip(predicted, interventions, strict=True):
        block = features.blocks[of.block]
        written = [names.index((of.block, of.position, int(block.features[i]))) for i in of.which]
        torch.testing.assert_close(row, (1 if of.kind == "double" else -1) * total[nodes][:, written].sum(1))
    assert {of.block for of in interventions} >= {0, 1}


def test_a_feature_is_taken_from_the_model_at_all_layers_it_writes_to():
    torch.manual_seed(2)
    model, of = tiny_models.hooked("RMS", n_layers=3), views(3)
    replaced = replaced_layers(model, of)
    features = prompt_features(replaced, prompt())
    first = int((features.blocks[0].positions == 2).nonzero()[0])
    feature, act = int(features.blocks[0].features[first]), features.blocks[0].acts[first]
    targets = EffectTargets(torch.arange(5), torch.zeros(0, dtype=torch.long))
    found = measured_effects(replaced, features, [Intervention("remove", 0, 2, (first,))], targets)[0]
    written = of[0].whole.W_dec[feature].split(16)  # of layer 0's features, which come first

    def without(block: int) -> Any:
        def hook(y: Tensor) -> Tensor:
            y = y.clone()
            y[0, 2] -= act * written[block]
            return y

        return hook

    hooks = hooks_of(model)

    def by_hand(blocks: range) -> Tensor:
        changed = hooks.run(prompt(), {replaced.layers[block].hook_out: without(block) for block in blocks})[0, -1]
        return ((changed - changed.mean()) - (features.logits - features.logits.mean()))[:5]

    torch.testing.assert_close(found, by_hand(range(3)))
    assert (found - by_hand(range(1))).abs().max() > 1e-4


def test_with_no_decoders_across_layers_the_graph_is_that_of_one_transcoder_for_each():
    torch.manual_seed(3)
    model, clt = tiny_models.hooked("LN"), cross_layer(2, bandwidth=1)
    alone: dict[int, Any] = {}
    for block, (part, b_dec) in enumerate(zip(clt.parts, clt.b_dec.split(16), strict=True)):
        alone[block] = random_transcoder("topk", d_in=16, d_out=16, d_sae=40, dtype="float64", k=5).eval()
        alone[block].requires_grad_(False)
        for name, weight in {"W_enc": part.W_enc, "b_enc": part.b_enc, "W_dec": part.W_dec, "b_dec": b_dec}.items():
            getattr(alone[block], name).copy_(weight)
    ours = attribute(replaced_layers(model, dict(enumerate(layer_views(clt)))), prompt())
    theirs = attribute(replaced_layers(model, alone), prompt())
    torch.testing.assert_close(ours.adjacency, theirs.adjacency)


@pytest.mark.parametrize(
    ("blocks", "layers"), [({0: 0, 2: 2}, r"\[0, 2\]"), ({0: 1, 1: 0, 2: 2}, r"\[1, 0, 2\]")], ids=["missing", "order"]
)
def test_views_that_are_not_all_there_in_order_are_refused(blocks, layers):
    each = layer_views(cross_layer(3))
    replaced = replaced_layers(
        tiny_models.hooked("LN", n_layers=3), {block: each[layer] for block, layer in blocks.items()}
    )
    with pytest.raises(UsageError, match=f"have the layers {layers} of a cross-layer transcoder of 3: pass all"):
        prompt_features(replaced, prompt())


def test_the_layers_are_those_that_the_files_name():
    clt = cross_layer(2)
    clt.cfg.metadata.hook_name, clt.cfg.metadata.hook_name_out = "ln2.hook_normalized", "hook_mlp_out"
    model = tiny_models.hooked("LN")
    named = replaced_layers(model, dict(enumerate(layer_views(clt))))
    assert [(of.hook_in, of.hook_out) for of in named.layers] == [
        (f"blocks.{block}.ln2.hook_normalized", f"blocks.{block}.hook_mlp_out") for block in (0, 1)
    ]
    clt.cfg.metadata.hook_name = "hook_resid_mid"  # in front of the norm
    before = replaced_layers(model, dict(enumerate(layer_views(clt))))
    assert [of.hook_in for of in before.layers] == ["blocks.0.hook_resid_mid", "blocks.1.hook_resid_mid"]
    assert prompt_features(before, prompt()).blocks[1].later == {}
