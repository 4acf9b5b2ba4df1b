"""Partners that fire together, and interference, against loops over tokens and features."""

from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from oracles import random_transcoder

from faithfulness_plugin.inspection.between.edges import InLayer, feature_edges
from faithfulness_plugin.inspection.between.firing_bits import FiringBits
from faithfulness_plugin.inspection.between.shared_rows import SharedRows
from faithfulness_plugin.inspection.between.stream_features import StreamFeatures
from faithfulness_plugin.inspection.layer_vocabulary import layer_vocabulary
from faithfulness_plugin.inspection.sample import Origins
from faithfulness_plugin.layers.any_model import hooks_of, mlp_layer

D, N, LAYERS = tiny_models.D_MODEL, 10, 3


def model_and_set(norm: str = "LN") -> Any:
    """A model, a transcoder for each of its three MLPs, and a text of which different tokens count for each."""
    model = tiny_models.hooked(norm, n_layers=LAYERS)
    hooks, tokens = hooks_of(model), torch.randint(50, (5, 8), generator=torch.Generator().manual_seed(0))
    each, origins = [], []
    for block in range(LAYERS):
        layer = mlp_layer(model, block)
        vocabulary = layer_vocabulary(hooks, layer)
        fields = {"d_in": D, "d_out": D, "d_sae": N, "skip": block == 1}
        transcoder = random_transcoder("standard", **fields).eval().requires_grad_(False)
        transcoder.b_enc.sub_(0.3)
        if block == 2:
            transcoder.b_enc[3] = -1e3  # never fires
        kept = torch.ones_like(tokens, dtype=torch.bool)
        kept[:, 0] = False
        kept[block, 2 + block] = False
        each.append(InLayer(layer, vocabulary, StreamFeatures.of(transcoder, vocabulary), np.zeros(N)))
        origins.append(Origins.of_kept(tokens, kept))
    shared = torch.stack([of.row_at >= 0 for of in origins]).all(0)
    names = [name for of in each for name in (of.layer.hook_in, of.vocabulary.stream)]
    cache = tiny_models.carried(model, dict.fromkeys(names), tokens)
    rows = [cache[of.layer.hook_in][shared] for of in each]
    acts = [of.features.transcoder.encode(x).detach() for of, x in zip(each, rows, strict=True)]
    streams = [cache[of.vocabulary.stream][shared].detach() for of in each]
    means = [a.sum(0) / (a > 0).sum(0).clamp_min(1) for a in acts]
    each = [InLayer(of.layer, of.vocabulary, of.features, m.numpy()) for of, m in zip(each, means, strict=True)]
    return hooks, each, origins, acts, streams, shared


@pytest.mark.parametrize(("norm", "memory"), [("LN", 2.0), ("RMS", 2.0), ("LN", 1e-6)])
def test_edges_of_a_model_against_loops(norm, memory):
    hooks, each, origins, acts, streams, shared = model_and_set(norm)
    found: Any = feature_edges(hooks, each, origins, most=4, memory=memory)
    if memory < 1:  # some of the prompts, one at a time
        assert 0 < found[0].n_rows < int(shared.sum())
        return
    assert found[0].n_rows == int(shared.sum())
    for m, of in enumerate(found):
        sizes = each[m].vocabulary.norm_in.sizes(streams[m])
        assert of.inverse_size == pytest.approx((1 / sizes).mean().item())
        for own in range(N):
            for k in range(4):
                place, other = of.up.places[own, k], of.up.features[own, k]
                if place >= 0:
                    here = acts[m][:, own] > 0
                    share = (acts[place][here, other] > 0).double().mean().item()
                    assert of.up_together[own, k] == pytest.approx(share)
                place, other = of.down.places[own, k], of.down.features[own, k]
                if place >= 0:
                    there = acts[place][:, other] > 0
                    share = (acts[m][there, own] > 0).double().mean().item()
                    assert of.down_together[own, k] == pytest.approx(share)
            expected = by_loops(each, m, own, acts, streams, of.up)
            values = of.interference.partners[own], of.interference.others[own], of.interference.interference[own]
            np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-9)
    assert np.isnan(found[2].interference.partners[3])
    assert (found[2].up.places[3] == -1).all()
    assert not found[0].interference.partners[~np.isnan(found[0].interference.partners)].any()
    assert found[2].interference.others.any()


def test_half_precision_is_multiplied_in_single_precision():
    hooks, each, origins, *_ = model_and_set()
    whole = feature_edges(hooks, each, origins, most=3)
    for of in each:
        of.features.transcoder.to(torch.bfloat16)
        of.features.transcoder.cfg.dtype = "bfloat16"
    half = feature_edges(hooks, each, origins, most=3)
    assert half[2].up.strength.dtype == np.float32
    np.testing.assert_allclose(half[2].up.strength[0, 0], whole[2].up.strength[0, 0], rtol=0.05)


def by_loops(each: Any, m: int, j: int, acts: Any, streams: Any, up: Any) -> tuple[float, float, float]:
    """Sums over tokens and features of earlier layers, one after the other."""
    norm = each[m].vocabulary.norm_in
    W_enc = each[m].features.transcoder.W_enc[:, j]
    partners = set(zip(up.places[j].tolist(), up.features[j].tolist(), strict=True))
    p_sum = p_squares = of_partners = of_others = squares = 0.0
    for n in (acts[m][:, j] > 0).nonzero()[:, 0].tolist():
        row = streams[m][n]
        size = norm.sizes(row[None])[0]
        p = (norm.rows(row[None])[0] @ W_enc).item()
        known = others = 0.0
        for place in range(m):
            written = each[place].features.transcoder.W_dec
            for i in range(N):
                added = (acts[place][n, i] * norm.fold(written[i][None])[0] @ W_enc / size).item()
                if (place, i) in partners:
                    known += added
                else:
                    others += added
        p_sum, p_squares = p_sum + p, p_squares + p * p
        of_partners, of_others, squares = of_partners + known, of_others + others, squares + others**2
    if p_sum <= 0:
        return float("nan"), float("nan"), (squares / p_squares) ** 0.5 if p_squares else float("nan")
    return of_partners / p_sum, of_others / p_sum, (squares / p_squares) ** 0.5


def test_what_a_feature_reads_is_all_there_is_without_its_bias():
    """p(n), of which shares are told, is the pre-activation less what the norm's shift and the bias add."""
    _, each, _, acts, streams, _ = model_and_set()
    of = each[2]
    transcoder, norm = of.features.transcoder, of.vocabulary.norm_in
    p = norm.rows(streams[2]) @ transcoder.W_enc
    fires = acts[2] > 0
    rest = acts[2][fires] - p[fires]  # of each feature one constant
    for j in range(N):
        of_feature = (acts[2] - p)[fires[:, j], j]
        assert of_feature.numel() == 0 or (of_feature - of_feature[0]).abs().max() < 1e-3
    assert rest.numel()


def test_bits_count_what_fires_together_in_parts_of_any_length():
    torch.manual_seed(0)
    fires = [torch.rand(2, 21, n).numpy() > 0.6 for n in (5, 7)]
    bits = FiringBits(2)
    for part in range(2):
        for place in range(2):
            bits.add(place, fires[place][part])
    one, two = (of.reshape(42, -1) for of in fires)
    places, features = (
        np.array([[1, 1], [1, -1], [-1, -1], [1, 0], [0, 1]]),
        np.array([[0, 6], [3, -1], [-1, -1]] + 2 * [[2, 2]]),
    )
    up, down = (bits.together(0, places, features, of=of) for of in ("up", "down"))
    both = (one[:, 0] & two[:, 6]).sum()
    assert up[0, 1] == pytest.approx(both / one[:, 0].sum())
    assert down[0, 1] == pytest.approx(both / two[:, 6].sum())
    assert up[3, 1] == pytest.approx((one[:, 3] & one[:, 2]).sum() / one[:, 3].sum())
    assert not up[2].any()


@pytest.mark.exact("counts of tokens")
def test_prompts_are_spread_over_the_text_and_fit_the_memory():
    hooks, each, origins, *_ = model_and_set()
    layers, streams = [of.layer for of in each], [of.vocabulary.stream for of in each]
    kept = origins[0].row_at >= 0

    def shared(**options: Any) -> SharedRows:
        return SharedRows.of(
            hooks, layers, streams, origins[0].tokens, kept, **{"width": 100, "memory": 2.0, **options}
        )

    assert shared().tokens.equal(origins[0].tokens)
    assert shared(most=16).tokens.equal(origins[0].tokens[[0, 4]])
    assert shared(most=1).tokens.equal(origins[0].tokens[:1])
    assert shared(memory=1e-9).prompts_per_pass == 1
    parts = list(shared(most=16).parts())
    assert [len(part[2].x) for part in parts] == [int(kept[[0, 4]].sum())]
