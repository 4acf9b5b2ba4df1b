"""Predicted effects against (I - U)^-1 and against models in which they are exact; the two-hop toy; chance."""

from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from oracles import random_transcoder
from torch import Tensor

from faithfulness_plugin.attribution import attribute, replaced_layers
from faithfulness_plugin.attribution.agreement import FIELDS, STATISTICS, EffectSums
from faithfulness_plugin.attribution.effects import EffectTargets, measured_effects, predicted_effects
from faithfulness_plugin.attribution.features import prompt_features
from faithfulness_plugin.attribution.interventions import Intervention, draw_interventions, draw_targets
from faithfulness_plugin.attribution.targets import salient_logits
from faithfulness_plugin.attribution.truth import truth_records
from faithfulness_plugin.benchmarks.tasks.two_hops import two_hops
from faithfulness_plugin.measure.references import shuffled_decoder
from faithfulness_plugin.results.hierarchical_bootstrap import hierarchical_bootstrap


def prompt() -> Tensor:
    return tiny_models.tokens()[:1]


def transcoders(n_blocks: int = 2, **options: Any) -> dict[int, Any]:
    fields = {"d_in": 16, "d_out": 16, "d_sae": 40, "dtype": "float64", "k": 5, **options}
    return {block: random_transcoder("topk", **fields).eval().requires_grad_(False) for block in range(n_blocks)}


def exact(model: Any) -> dict[int, Any]:
    """Transcoders that compute ReLU MLPs exactly, neuron by neuron."""
    found = {}
    for block, layer in enumerate(model.blocks):
        found[block] = random_transcoder("standard", d_in=16, d_out=16, d_sae=32).eval().requires_grad_(False)
        for ours, theirs in (("W_enc", "W_in"), ("b_enc", "b_in"), ("W_dec", "W_out"), ("b_dec", "b_out")):
            getattr(found[block], ours).copy_(getattr(layer.mlp, theirs))
    return found


def linear_toy(n_layers: int = 3) -> Any:
    """No norms, the same attention whatever is read, and neurons that are all on: linear."""
    model = tiny_models.hooked(None, act_fn="relu", n_layers=n_layers)
    with torch.no_grad():
        for layer in model.blocks:
            layer.attn.W_Q.zero_()
            layer.attn.W_K.zero_()
            layer.attn.b_Q.zero_()
            layer.mlp.W_in.mul_(0.02)
            layer.mlp.b_in.fill_(9.0)
    return model


def all_targets(features: Any) -> EffectTargets:
    return EffectTargets(salient_logits(features.logits)[0], torch.arange(len(features.table)))


def test_predicted_effects_are_sums_over_all_paths_of_the_graph():
    torch.manual_seed(1)
    replaced = replaced_layers(tiny_models.hooked("RMS", n_layers=3), transcoders(3, skip=True))
    features = prompt_features(replaced, prompt())
    graph = attribute(replaced, prompt(), max_features=None)
    interventions = draw_interventions(features, 5, seed=2)
    predicted = predicted_effects(replaced, features, interventions, all_targets(features))
    total = graph.total_effects()
    nodes = torch.tensor([*range(graph.logits.start, graph.logits.stop), *range(graph.n_features)])
    names = [tuple(row) for row in graph.features.tolist()]
    checked = 0
    for row, of in zip(predicted, interventions, strict=True):
        if of.kind == "input":
            continue
        block = features.blocks[of.block]
        written = [names.index((of.block, of.position, int(block.features[i]))) for i in of.which]
        sign = 1 if of.kind == "double" else -1
        torch.testing.assert_close(row, sign * total[nodes][:, written].sum(1))
        checked += 1
    assert checked == 15


def test_an_input_that_is_taken_away_has_the_effect_of_its_token_node():
    """Moved half-way towards 0, which is a token's embedding here."""
    torch.manual_seed(2)
    model = tiny_models.hooked("LN")
    with torch.no_grad():
        model.embed.W_E[prompt()[0, 4]] = 0
    replaced = replaced_layers(model, transcoders())
    features, graph = prompt_features(replaced, prompt()), attribute(replaced, prompt(), max_features=None)
    moved = [Intervention("input", -1, 2, towards=4)]
    predicted = predicted_effects(replaced, features, moved, all_targets(features))[0]
    column = graph.total_effects()[:, graph.embeddings.start + 2]
    nodes = torch.tensor([*range(graph.logits.start, graph.logits.stop), *range(graph.n_features)])
    torch.testing.assert_close(predicted, -0.5 * column[nodes])


def test_in_a_linear_toy_predictions_are_exactly_what_is_measured():
    torch.manual_seed(3)
    model = linear_toy()
    replaced = replaced_layers(model, exact(model))
    features = prompt_features(replaced, prompt(), torch.ones(6, dtype=torch.bool))
    assert max(of.error.abs().max() for of in features.blocks) < 1e-9
    interventions = draw_interventions(features, 10, seed=0)
    targets = EffectTargets(salient_logits(features.logits)[0], draw_targets(features, 50, seed=0))
    predicted = predicted_effects(replaced, features, interventions, targets)
    measured = measured_effects(replaced, features, interventions, targets)
    blocks = targets.blocks(features)
    later = blocks > torch.tensor([of.block for of in interventions])[:, None]
    torch.testing.assert_close(predicted[later], measured[later], rtol=1e-9, atol=1e-9)
    assert (measured[later].abs() > 1e-6).sum() > 100
    records = [record for of in truth_records(replaced, [prompt()], n_each=4) for record in of]
    assert {record.kind for record in records} == {"remove", "double", "remove token's features", "input"}
    for record in records:
        assert record.sums.squared_error <= 1e-18 * max(1, record.sums.mm)
        assert record.sums.same_sign == record.sums.signed


def as_features(layer: Any, reads: Tensor, writes: Tensor) -> Any:
    """An exact transcoder of a ReLU network that reads and writes some directions of a stream of 28."""
    transcoder: Any = random_transcoder("standard", d_in=28, d_out=28, d_sae=layer.W_in.shape[1], dtype="float32")
    transcoder = transcoder.eval().requires_grad_(False)
    transcoder.W_enc.copy_(reads @ layer.W_in)
    transcoder.b_enc.copy_(layer.b_in if layer.b_in is not None else 0)
    transcoder.W_dec.copy_(layer.W_out @ writes)
    transcoder.b_dec.zero_()
    return transcoder


def two_hop_model(bits: Tensor) -> tuple[Any, dict[int, Any]]:
    """A stream of 16 bits, 8 conjunctions and 4 outputs; each token is a row of bits, logits read the outputs."""
    conjunction, exclusive_or = (hop.layer for hop in two_hops().hops)
    eye = torch.eye(28)
    of = {
        0: as_features(conjunction, eye[:, :16], eye[16:24]),
        1: as_features(exclusive_or, eye[:, 16:24], eye[24:]),
    }
    sizes = {"n_layers": 2, "d_model": 28, "d_head": 4, "n_heads": 2, "d_vocab": len(bits), "dtype": torch.float32}
    model = tiny_models.hooked(None, act_fn="relu", d_mlp=8, **sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embed.W_E[:, :16] = bits
        model.unembed.W_U[24:, :4] = torch.eye(4)
        for block, transcoder in of.items():
            mlp = model.blocks[block].mlp
            for theirs, ours in (("W_in", "W_enc"), ("b_in", "b_enc"), ("W_out", "W_dec"), ("b_out", "b_dec")):
                getattr(mlp, theirs).copy_(getattr(transcoder, ours))
    return model, of


def test_the_two_hop_toys_known_graph_is_recovered():
    bits = torch.randint(2, (40, 16), generator=torch.Generator().manual_seed(0)).float()
    bits[0] = torch.tensor([1, 1, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0])  # conjunctions 0, 2, 3 and 6
    model, of = two_hop_model(bits)
    tokens = torch.tensor([[5, 0]])
    graph = attribute(replaced_layers(model, of), tokens, max_features=None, max_logits=40, probability=1.0)
    here = [tuple(row) for row in graph.features.tolist() if row[1] == 1]
    ands, ors = [f for b, _, f in here if b == 0], [f for b, _, f in here if b == 1]
    assert ands == [0, 2, 3, 6]
    # 0 without 1; 2 and 3 cancel; 6 without 7: outputs 0 and 3, by the features of "left without right"
    assert ors == [0, 3]
    node = {tuple(row): i for i, row in enumerate(graph.features.tolist())}
    token = graph.embeddings.start + 1
    A = graph.adjacency
    for i in ands:  # 2 (x_2i + x_2i+1), less a bias of 3: 1
        row = A[node[0, 1, i]].clone()
        assert row[token] == 4
        assert graph.rest[node[0, 1, i]] == -3
        row[token] = 0
        assert not row.any()
    for j, source in ((0, 0), (3, 6)):
        row = A[node[1, 1, j]].clone()
        assert row[node[0, 1, source]] == 1
        row[node[0, 1, source]] = 0
        assert not row.any()
    logits = graph.logit_tokens.tolist()
    for output in range(4):
        row = A[graph.logits.start + logits.index(output)]
        # less the mean over 40 logits, of which 4 read an output
        expected = {j: (j == output) - 1 / 40 for j in ors}
        for j, value in expected.items():
            assert row[node[1, 1, j]].item() == pytest.approx(value, abs=1e-6)
        others = torch.ones(len(A), dtype=torch.bool)
        others[[node[1, 1, j] for j in ors]] = False
        assert row[others].abs().max() < 1e-6
    assert not A[:, graph.errors].any()


def test_a_shuffled_decoder_predicts_at_chance():
    """The model's own neurons as features predict well; with what they write exchanged, nothing is left of it."""
    torch.manual_seed(5)
    model = tiny_models.hooked("RMS", act_fn="relu", n_layers=4, d_mlp=32)
    of = exact(model)
    replaced = replaced_layers(model, of)
    shuffled = replaced_layers(model, {block: shuffled_decoder(t, seed=block) for block, t in of.items()})
    prompts = [torch.randint(50, (1, 8), generator=torch.Generator().manual_seed(n)) for n in range(12)]

    def correlation(**options: Any) -> Any:
        sums = [
            sum(record.sums.parts() for record in records if record.kind in ("remove", "double"))
            for records in truth_records(replaced, prompts, n_each=12, seed=1, **options)
        ]
        each = np.stack(sums, axis=-1)[None]  # one seed: [seeds, parts, prompts]
        return {name: hierarchical_bootstrap(list(each), statistic) for name, statistic in STATISTICS.items()}

    true, chance = correlation(), correlation(claimed=shuffled)
    assert true["linear correlation"].low > 0.8
    assert true["sign agreement"].low > 0.8
    assert true["normalised error"].high < 0.6
    assert chance["linear correlation"].low < 0 < chance["linear correlation"].high
    assert chance["sign agreement"].low < 0.5 < chance["sign agreement"].high
    assert chance["normalised error"].low > 1


def test_sums_give_the_usual_correlations():
    generator = torch.Generator().manual_seed(0)
    p, noise = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    m = p + noise
    sums = EffectSums.of(p, m).parts()[None]
    assert STATISTICS["linear correlation"](sums) == pytest.approx(np.corrcoef(p, m)[0, 1])
    ranks = np.corrcoef(p.argsort().argsort(), m.argsort().argsort())[0, 1]
    assert STATISTICS["rank correlation"](sums) == pytest.approx(ranks)
    assert STATISTICS["sign agreement"](sums) == pytest.approx(((p > 0) == (m > 0)).double().mean().item())
    assert STATISTICS["normalised error"](sums) == pytest.approx((noise.square().sum() / m.square().sum()).item())
    halves = np.sum([EffectSums.of(p[part], m[part]).parts() for part in (slice(0, 20), slice(20, 50))], axis=0)
    added = dict(zip(FIELDS, halves, strict=True))
    assert added["pm"] == pytest.approx(float((p * m).sum()))
    assert added["ranked"] == 2
    assert EffectSums.of(p[:2], m[:2]).ranked == 0


def test_records_are_the_same_again_and_other_gates_are_refused():
    torch.manual_seed(6)
    model = tiny_models.hooked("LN")
    replaced, other = (replaced_layers(model, transcoders()) for _ in range(2))
    once, again = ([*truth_records(replaced, [prompt()], n_each=2)] for _ in range(2))
    assert once == again
    assert all(record.distance in (1, 2) for record in once[0])
    with pytest.raises(ValueError, match="other gates"):
        next(truth_records(replaced, [prompt()], claimed=other))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(1, 1, dtype=torch.long), "no feature fires on this prompt"),
        (torch.zeros(1, 5, dtype=torch.long), "all tokens of the prompt are equal"),
    ],
)
def test_prompts_that_leave_nothing_to_change(tokens, message):
    with pytest.raises(ValueError, match=message):
        next(truth_records(replaced_layers(tiny_models.hooked("LN"), transcoders()), [tokens]))
