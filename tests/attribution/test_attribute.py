"""Edges against the twin, across libraries, and what users get wrong."""

from typing import Any

import pytest
import tiny_models
import torch
from held_twin import HeldTwin
from oracles import random_transcoder
from torch import Tensor

from faithfulness_plugin.attribution import attribute, replaced_layers
from faithfulness_plugin.attribution.features import prompt_features
from faithfulness_plugin.attribution.local import Local
from faithfulness_plugin.layers.any_model import hooks_of

ALL = torch.ones(6, dtype=torch.bool)
BIASLESS = ("llama", "gemma2", "mixtral", "olmo2")


def prompt() -> Tensor:
    return tiny_models.tokens()[:1]


def transcoders(blocks: tuple[int, ...] = (0, 1), *, biases: bool = True, **options: Any) -> dict[int, Any]:
    fields = {"d_in": 16, "d_out": 16, "d_sae": 40, "dtype": "float64", "k": 5, **options}
    found = {block: random_transcoder("topk", **fields).eval().requires_grad_(False) for block in blocks}
    if not biases:
        for transcoder in found.values():
            transcoder.b_enc.zero_()
            transcoder.b_dec.zero_()
    return found


@pytest.mark.parametrize("kept", [ALL, ALL & (torch.arange(6) != 0)])
@pytest.mark.parametrize("blocks", [(0, 1), (1,)])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(
    ("norm", "options"),
    [
        ("LN", {}),
        ("RMS", {"positional_embedding_type": "rotary", "rotary_dim": 8}),
        ("LN", {"parallel_attn_mlp": True}),
    ],
)
def test_edges_are_what_the_twin_loses_without_a_source(norm, options, skip, blocks, kept):
    torch.manual_seed(1)
    model, of = tiny_models.hooked(norm, **options), transcoders(blocks, skip=skip)
    graph = attribute(replaced_layers(model, of), prompt(), kept=kept, max_features=None, batch_size=7)
    twin = HeldTwin(model, of, prompt(), kept)
    assert [[f.block, f.position, f.feature] for f in twin.features] == graph.features.tolist()
    columns = [i for i in range(graph.logits.start) if is_twins_source(graph, i, kept)]
    rows = torch.cat([graph.adjacency[: graph.n_features], graph.adjacency[graph.logits]])
    expected, rest = twin.rows(graph.logit_tokens)
    torch.testing.assert_close(rows[:, columns], expected)
    torch.testing.assert_close(torch.cat([graph.rest[: graph.n_features], graph.rest[graph.logits]]), rest)
    assert graph.without == tuple({0, 1} - set(blocks))


def is_twins_source(graph: Any, node: int, kept: Tensor) -> bool:
    """The twin has no error where tokens are left out; the graph's are 0 there."""
    if not graph.errors.start <= node < graph.errors.stop or kept[(node - graph.errors.start) % len(kept)]:
        return True
    assert not graph.adjacency[:, node].any()
    return False


@pytest.mark.parametrize("name", BIASLESS)
def test_without_biases_edges_add_up_to_what_targets_are_worth(name):
    """Gemma 2 has a soft cap on its logits, which is not linear: its features alone."""
    torch.manual_seed(2)
    model = tiny_models.hugging_face(name)
    of = transcoders(biases=False, skip=True)
    graph = attribute(replaced_layers(model, of), prompt(), kept=ALL, max_features=None)
    rest = graph.rest[: graph.n_features] if name == "gemma2" else graph.rest
    assert rest.abs().max() < 1e-6 * graph.values.abs().max()  # these models compute softmax in single precision
    assert graph.adjacency.abs().sum() > 0


@pytest.mark.parametrize("name", ["llama", "neox", "gpt2"])
def test_libraries_agree_on_one_model(name):
    torch.manual_seed(3)
    model, of = tiny_models.hugging_face(name), transcoders(skip=True)
    plain = attribute(replaced_layers(model, of), prompt(), max_features=None)
    model.set_attn_implementation("eager")
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    bridge = build_bridge_from_module(model, type(model).__name__, hf_config=model.config)
    bridged = attribute(replaced_layers(bridge, of), prompt(), max_features=None)
    torch.testing.assert_close(bridged.adjacency, plain.adjacency, rtol=1e-5, atol=1e-6)
    assert bridged.features.equal(plain.features)


@pytest.mark.parametrize("gates", [False, True])
def test_with_errors_the_model_keeps_its_logits(gates):
    torch.manual_seed(4)
    model = tiny_models.bridge("llama")
    replaced = replaced_layers(model, transcoders(skip=True))
    features = prompt_features(replaced, prompt())
    local = Local.of(replaced, prompt(), features.gates if gates else features.skips)
    with torch.no_grad():
        torch.testing.assert_close(local.logits, hooks_of(model).run(prompt(), {}), rtol=1e-6, atol=1e-6)


def test_a_smaller_graph_is_a_part_of_the_whole_one():
    torch.manual_seed(5)
    replaced = replaced_layers(tiny_models.hooked("RMS"), transcoders())
    whole = attribute(replaced, prompt(), max_features=None)
    part = attribute(replaced, prompt(), max_features=20, per_round=6)
    assert (part.n_features, part.n_active) == (20, whole.n_features)
    assert "20 features of 50 that fire" in repr(part)
    names = [tuple(row) for row in whole.features.tolist()]
    chosen = [names.index(tuple(row)) for row in part.features.tolist()]
    nodes = torch.tensor([*chosen, *range(whole.n_features, len(whole.adjacency))])
    torch.testing.assert_close(part.adjacency, whole.adjacency[nodes][:, nodes])
    # the rest takes what features that are no nodes add
    torch.testing.assert_close(part.rest + part.adjacency.sum(1), whole.values[nodes])


def test_chosen_features_are_those_of_most_influence():
    """With a round for each, every choice follows from the rows before it."""
    torch.manual_seed(6)
    replaced = replaced_layers(tiny_models.hooked("RMS"), transcoders())
    whole = attribute(replaced, prompt(), max_features=None)
    part = attribute(replaced, prompt(), max_features=3, per_round=1)
    known, weights = torch.zeros_like(whole.adjacency), whole.weights
    known[whole.logits] = whole.adjacency[whole.logits]
    chosen: list[int] = []
    for _ in range(3):
        shares = known.abs() / known.abs().sum(1, keepdim=True).clamp(min=1e-10)
        influence = weights @ (torch.linalg.inv(torch.eye(len(shares)).double() - shares) - torch.eye(len(shares)))
        influence[chosen] = -1
        chosen.append(int(influence[: whole.n_features].argmax()))
        known[chosen[-1]] = whole.adjacency[chosen[-1]]
    assert part.features.tolist() == whole.features[sorted(chosen)].tolist()


def test_a_model_that_is_not_linear_is_refused(monkeypatch):
    monkeypatch.setattr("faithfulness_plugin.attribution.held.SCALES", set())
    with pytest.raises(ValueError, match="block 0 is not linear while attention patterns and the scales of norms"):
        attribute(replaced_layers(tiny_models.hooked("RMS"), transcoders()), prompt())


@pytest.mark.parametrize(
    ("blocks", "tokens", "options", "message"),
    [
        ((), prompt(), {}, "no transcoders: pass one for each block"),
        ((2,), prompt(), {}, "block 2: the model has the blocks 0 to 1"),
        ((0,), tiny_models.tokens(), {}, r"tokens of shape \[2, 6\]: a graph is of one prompt"),
        ((0,), torch.zeros(1, 99, dtype=torch.long), {}, "99 tokens do not fit the model, which has 32 positions"),
        ((0,), torch.full((1, 4), 77), {}, "token id 77 is outside the model's vocabulary"),
        ((0,), prompt(), {"kept": ALL[:3]}, r"kept has shape \[3\]: pass one flag per token, \[6\]"),
        ((0,), prompt(), {"max_features": 0}, "max_features=0: pass 1 or more"),
    ],
)
def test_what_a_user_can_get_wrong(blocks, tokens, options, message):
    with pytest.raises(ValueError, match=message):
        attribute(replaced_layers(tiny_models.hooked("LN"), transcoders(blocks)), tokens, **options)


def test_an_autoencoder_and_a_set_for_another_model_are_refused():
    of = transcoders((0,))
    of[0].cfg.metadata.hook_name = "blocks.0.hook_mlp_out"
    of[0].cfg.metadata.hook_name_out = "blocks.0.hook_mlp_out"
    of[0].cfg.metadata.autoencoder = True
    with pytest.raises(ValueError, match=r"block 0 reads and writes blocks\.0\.hook_mlp_out"):
        replaced_layers(tiny_models.hooked("LN"), of)
    with pytest.raises(ValueError, match="block 1 maps 8 to 16 and the layer 16 to 16: is it a transcoder"):
        attribute(replaced_layers(tiny_models.hooked("LN"), transcoders((1,), d_in=8)), prompt())
    of = transcoders((0,))
    of[0].cfg.metadata.hook_name = "blocks.5.mlp.hook_in"
    with pytest.raises(ValueError, match="layer 0 was asked for, and the transcoder says"):
        replaced_layers(tiny_models.hooked("LN"), of)
