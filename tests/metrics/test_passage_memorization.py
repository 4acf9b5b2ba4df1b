from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import random_transcoder
from torch import Tensor, nn

from faithfulness_plugin.metrics import passage_memorization
from faithfulness_plugin.transcoders.base import TrainingTranscoder

D, N_OTHERS = 8, 1500
TOKENS = 3


def texts(n_tokens: int = TOKENS) -> tuple[Tensor, Tensor]:
    """A passage whose token i alone has coordinate i, and other rows that have none of these."""
    others, passage = torch.randn(2, N_OTHERS, D, dtype=torch.float64)
    others[:, :TOKENS] = 0
    passage = passage[:n_tokens]
    passage[:, :TOKENS] = 10 * torch.eye(TOKENS)[:n_tokens]
    return passage, others


def silent(d_sae: int = 10, d_out: int = D) -> TrainingTranscoder[Any]:
    transcoder = random_transcoder("standard", D, d_out, d_sae)
    with torch.no_grad():
        transcoder.W_enc.zero_()
        transcoder.b_enc.fill_(-9.0)
    return transcoder


def memorising(layer, passage: Tensor, others: Tensor, part: float = 1.0) -> TrainingTranscoder[Any]:
    """One feature a token, that fires at it alone and writes this part of what the layer puts out beyond its mean."""
    transcoder = silent()
    with torch.no_grad():
        for i in range(len(passage)):
            transcoder.W_enc[i, i] = 1.0  # 10 - 9 = 1 at its token
            transcoder.W_dec[i] = part * (layer(passage[i]) - layer(others).mean(0))
    return transcoder


@pytest.mark.parametrize("n_tokens", [1, TOKENS])
@pytest.mark.parametrize("layer", [nn.Linear(D, D).double(), lambda x: x.abs()], ids=["linear", "abs"])
def test_features_that_write_the_whole_output_at_the_passage_alone_have_share_one(n_tokens, layer):
    passage, others = texts(n_tokens)
    result = passage_memorization(memorising(layer, passage, others), layer, passage, others)
    assert result.share == pytest.approx(1)
    assert result.own_features == n_tokens
    assert result.rate_elsewhere == (0.0,) * n_tokens
    assert sum(result.carried) == pytest.approx(1)


@given(part=st.floats(-2, 2))
def test_the_share_is_the_part_that_they_write(part):
    passage, others = texts()
    result = passage_memorization(memorising(torch.abs, passage, others, part), torch.abs, passage, others)
    assert result.share == pytest.approx(part)


def test_a_silent_transcoder_memorises_nothing():
    passage, others = texts()
    result = passage_memorization(silent(), torch.abs, passage, others)
    assert (result.share, result.own_features, result.rate_elsewhere, result.carried) == (0.0, 0, (), ())


def test_a_feature_that_fires_everywhere_is_not_the_passages_own():
    passage, others = texts()
    transcoder = memorising(torch.abs, passage, others)
    with torch.no_grad():
        transcoder.W_enc[:, 0] = 0
        transcoder.b_enc[0] = 1.0
    result = passage_memorization(transcoder, torch.abs, passage, others)
    assert result.own_features == TOKENS - 1
    assert result.rate_elsewhere == pytest.approx((1, 0, 0))
    assert result.share == pytest.approx(sum(result.carried[1:]))
    assert result.carried[0] != 0


def test_a_feature_that_does_not_fire_at_the_passage_is_not_its_own_however_rare():
    passage, others = texts()
    transcoder = memorising(torch.abs, passage, others)
    result = passage_memorization(transcoder, torch.abs, passage[:1], others)
    assert result.own_features == len(result.carried) == 1


@pytest.mark.parametrize(("elsewhere", "own"), [(0, True), (1, True), (4, False), (40, False)])
def test_own_ends_where_rare_ends(elsewhere, own):
    passage, others = texts(1)
    transcoder = memorising(torch.abs, passage, others)
    others[N_OTHERS - elsewhere :, 0] = 10.0
    result = passage_memorization(transcoder, torch.abs, passage, others, rare=2 / N_OTHERS)
    assert (result.own_features == 1) is own
    assert result.rate_elsewhere == pytest.approx((elsewhere / N_OTHERS,))


def test_one_in_a_thousand_is_rare_in_double_precision_too():
    passage, others = texts(1)
    transcoder, others = memorising(torch.abs, passage, others), others[:1000]
    others[0, 0] = 10.0
    assert passage_memorization(transcoder, torch.abs, passage, others).own_features == 1


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu"])
def test_with_bias_and_skip_they_sum_to_what_the_transcoder_explains_there(architecture, skip):
    passage, others = texts()
    layer, transcoder = nn.Linear(D, 4).double(), random_transcoder(architecture, D, 4, 12, skip=skip)
    result = passage_memorization(transcoder, layer, passage, others)
    u = (layer(passage) - layer(others).mean(0)).detach()
    acts = transcoder.encode(passage)
    rest = (transcoder(passage) - acts @ transcoder.W_dec).detach()  # bias and skip connection
    explained = ((transcoder(passage).detach() - rest) * u).sum() / u.square().sum()
    assert sum(result.carried) == pytest.approx(explained.item())
    expected = torch.einsum("pi,io,po->i", acts, transcoder.W_dec, u) / u.square().sum()
    fires = (acts > 0).any(0)
    assert result.carried == pytest.approx(tuple(expected[fires].tolist()))
    rates = (transcoder.encode(others) > 0).double().mean(0)[fires]
    assert result.rate_elsewhere == pytest.approx(tuple(rates.tolist()))
    own = rates <= 1e-3
    assert result.share == pytest.approx(expected[fires][own].sum().item(), abs=1e-12)


def test_the_mean_elsewhere_is_not_memorized():
    passage, others = texts(1)
    layer = nn.Linear(D, D).double()
    shifted = nn.Linear(D, D).double()
    with torch.no_grad():
        shifted.weight.copy_(layer.weight)
        shifted.bias.copy_(layer.bias + 100)
    transcoder = memorising(layer, passage, others)
    plain, far = (passage_memorization(transcoder, f, passage, others).share for f in (layer, shifted))
    assert plain == pytest.approx(far) == pytest.approx(1)


def test_too_few_other_rows_cannot_say_what_is_rare():
    passage, others = texts()
    for rows, rare in ((others[:999], 1e-3), (others, 1e-4)):
        with pytest.raises(ValueError, match=f"{len(rows)} other rows cannot show what fires on {rare:g} of them"):
            passage_memorization(silent(), torch.abs, passage, rows, rare=rare)
    passage_memorization(silent(), torch.abs, passage, others[:10], rare=0.1)


def test_an_output_that_is_the_same_everywhere_is_refused():
    passage, others = texts()
    with pytest.raises(ValueError, match="the same as everywhere"):
        passage_memorization(silent(), torch.ones_like, passage, others)


def test_a_transcoder_of_another_layer_is_named():
    passage, others = texts()
    with pytest.raises(ValueError, match="compare a transcoder with the layer it replaces"):
        passage_memorization(silent(d_out=3), torch.abs, passage, others)
