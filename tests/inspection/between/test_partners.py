"""Virtual weights against matrices written out, and against the edges of attribution graphs."""

from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from oracles import random_transcoder

from faithfulness_plugin.attribution import attribute, replaced_layers
from faithfulness_plugin.inspection.between import partners as module
from faithfulness_plugin.inspection.between.partners import find_partners
from faithfulness_plugin.inspection.between.stream_features import StreamFeatures
from faithfulness_plugin.inspection.layer_vocabulary import layer_vocabulary
from faithfulness_plugin.layers.any_model import hooks_of
from faithfulness_plugin.layers.vocabulary import NormScale

D = 8
SIZES = (7, 12, 9, 5)


def random_set(norms: Any = ("LN", "RMS", "LN", "none"), skips: Any = (False, True, True, False)) -> Any:
    """Transcoders of four layers with random weights, their activations, and the mean of 1 / size in front of each."""
    torch.manual_seed(3)
    each, acts = [], []
    for n, norm, skip, written in zip(SIZES, norms, skips, (1.0, 0.5, 1.0, 2.0), strict=True):
        transcoder = random_transcoder("standard", d_in=D, d_out=D, d_sae=n, skip=skip).requires_grad_(False)
        scale = torch.randn(D).double() if norm != "none" else torch.ones(D).double()
        norm_in = NormScale(scale, centred=norm == "LN", divides=norm != "none")
        each.append(StreamFeatures(transcoder, norm_in, written))
        acts.append((torch.rand(n).double() + 0.1).numpy())
    acts[1][4] = 0  # features that never fire
    acts[3][0] = 0
    return each, acts, [0.7, 0.4, 1.3, 1.0]


def matrices(of: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What features read of a row of size 1 [d_sae, d], what they add to the stream [d_sae, d], and the skip connection
    from the stream to the stream [d, d], written out."""
    centre = np.eye(D) - (1 / D if of.norm_in.centred else 0)
    norm = np.diag(of.norm_in.scale.numpy()) @ centre
    transcoder = of.transcoder
    skip = of.written * transcoder.W_skip.numpy() @ norm if transcoder.cfg.skip else np.zeros((D, D))
    return transcoder.W_enc.numpy().T @ norm, of.written * transcoder.W_dec.numpy(), skip


def edges_by_hand(each: Any, inverse: Any) -> dict[tuple[int, int, int, int], tuple[float, float]]:
    """(direct, whole) of every pair: source's place and number, target's place and number."""
    found = {}
    for m, target in enumerate(each):
        reads = matrices(target)[0]
        for place in range(m):
            writes = matrices(each[place])[1]
            for i, written in enumerate(writes):
                row = written
                for between in range(place + 1, m):
                    row = row + inverse[between] * matrices(each[between])[2] @ row
                for j, read in enumerate(reads):
                    found[place, i, m, j] = inverse[m] * read @ written, inverse[m] * read @ row
    return found


@pytest.mark.parametrize("most", [3, 50])
@pytest.mark.parametrize("parts", [False, True])
def test_partners_are_the_largest_of_all_edges_by_brute_force(most, parts, monkeypatch):
    if parts:
        monkeypatch.setattr(module, "TARGETS_AT_A_TIME", 4)
        monkeypatch.setattr(module, "SOURCES_AT_A_TIME", 2)
        monkeypatch.setattr(module, "PAIRS_AT_A_TIME", 3)
    each, acts, inverse = random_set()
    found = find_partners(each, acts, inverse, most)
    by_hand = edges_by_hand(each, inverse)
    for place in range(len(each)):
        for side, of in (("up", found[place].up), ("down", found[place].down)):
            for own in range(SIZES[place]):
                expected = []
                for (source, i, m, j), (direct, whole) in by_hand.items():
                    here, other = ((m, j), (source, i)) if side == "up" else ((source, i), (m, j))
                    if here == (place, own) and acts[source][i] and acts[m][j]:
                        expected.append((whole * acts[source][i] / acts[m][j], direct, whole - direct, *other))
                expected.sort(key=lambda edge: -abs(edge[0]))
                n = min(most, len(expected))
                there = of.places[own] >= 0
                assert there.sum() == n
                assert there[:n].all()
                for k, (strength, direct, skipped, other, number) in enumerate(expected[:n]):
                    assert (of.places[own, k], of.features[own, k]) == (other, number)
                    values = of.strength[own, k], of.direct[own, k], of.skipped[own, k]
                    np.testing.assert_allclose(values, (strength, direct, skipped), rtol=1e-9, atol=1e-12)
                    share = abs(skipped) / (abs(skipped) + abs(direct))
                    assert of.skip_share[own, k] == pytest.approx(share, abs=1e-9)
                assert not of.strength[own, n:].any()
                assert (of.features[own, n:] == -1).all()


def test_no_scale_of_activations_changes_partners():
    each, acts, inverse = random_set()
    before = find_partners(each, acts, inverse)
    of = each[1].transcoder
    of.W_enc *= 5
    of.W_dec /= 5
    acts[1] *= 5
    after = find_partners(each, acts, inverse)
    for one, other in zip(before, after, strict=True):
        for side in ("up", "down"):
            np.testing.assert_array_equal(getattr(one, side).features, getattr(other, side).features)
            np.testing.assert_allclose(getattr(one, side).strength, getattr(other, side).strength)
    np.testing.assert_allclose(after[1].up.direct, 5 * before[1].up.direct)


def test_a_layer_that_reads_no_norm_of_the_stream_or_does_not_write_to_it_has_partners_to_one_side():
    each, acts, inverse = random_set()
    each[1] = StreamFeatures(each[1].transcoder, None, 1.0)
    each[2] = StreamFeatures(each[2].transcoder, each[2].norm_in, None)
    found = find_partners(each, acts, inverse)
    assert (found[1].up.places == -1).all()
    assert (found[1].down.places[acts[1] > 0, 0] >= 2).all()
    assert (found[2].down.places == -1).all()
    assert (found[2].up.places[:, 0] >= 0).all()
    assert not any(of.down.skipped.any() for of in found)  # neither has a skip connection from the stream to the stream


@pytest.mark.parametrize("norm", ["LN", "RMS"])
def test_edges_are_those_of_an_attribution_graph_past_attention_at_the_sizes_of_its_token(norm):
    model, tokens = tiny_models.hooked(norm, n_layers=3), tiny_models.tokens()[:1]
    for block in model.blocks:
        block.attn.W_O.data.zero_()
    fields = {"d_in": 16, "d_out": 16, "d_sae": 20, "dtype": "float64", "skip": True}
    each = {b: random_transcoder("standard", **fields).eval().requires_grad_(False) for b in range(3)}
    replaced = replaced_layers(model, each)
    graph = attribute(replaced, tokens, max_features=None)
    hooks, position = hooks_of(model), 4
    streams, inverse = [], []
    for block in range(3):
        vocabulary = layer_vocabulary(hooks, replaced.layers[block])
        assert vocabulary is not None
        assert vocabulary.norm_in is not None
        assert vocabulary.stream is not None
        streams.append(StreamFeatures.of(each[block], vocabulary))
        stream = tiny_models.carried(model, [vocabulary.stream], tokens)[vocabulary.stream]
        inverse.append(1 / vocabulary.norm_in.sizes(stream[0, position]).item())
    here = {tuple(of): n for n, of in enumerate(graph.features.tolist()) if of[1] == position}
    acts = [np.zeros(20) for _ in range(3)]
    for (block, _, feature), n in here.items():
        acts[block][feature] = graph.acts[n].item()
    found = find_partners(streams, acts, inverse, most=60)
    seen = 0
    for (block, _, feature), n in here.items():
        up = found[block].up
        for k in range(int((up.places[feature] >= 0).sum())):
            source = here[(int(up.places[feature, k]), position, int(up.features[feature, k]))]
            whole = up.direct[feature, k] + up.skipped[feature, k]
            edge = graph.adjacency[n, source].item()
            assert whole * graph.acts[source].item() == pytest.approx(edge, rel=1e-3, abs=1e-4)
            seen += 1
    assert seen == sum(one < other for one, _, _ in here for other, _, _ in here)
    assert any(of.up.skipped.any() for of in found)
