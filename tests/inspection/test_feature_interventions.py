"""Features removed and doubled for a page, against `intervene` and predictions computed by hand."""

from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from families import FAMILIES
from oracles import random_transcoder

from faithfulness_plugin import StandardTrainingTranscoder, StandardTrainingTranscoderConfig
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.inspection.feature_interventions import (
    change_features,
    next_token_moved,
    require_changeable,
    require_features,
    top_features,
)
from faithfulness_plugin.inspection.interventions import intervene
from faithfulness_plugin.inspection.records import feature_records
from faithfulness_plugin.inspection.sample import row_sample
from faithfulness_plugin.inspection.text import text_sample
from faithfulness_plugin.layers.any_model import hooks_of, mlp_layer
from faithfulness_plugin.layers.hooked_layer import HookedLayer

DEAD = 4


@pytest.fixture(scope="module")
def inspected() -> Any:
    """A model, a transcoder of its first MLP and records of it on twelve prompts."""
    torch.manual_seed(0)
    model = tiny_models.hooked("LN")
    hooks, layer = hooks_of(model), mlp_layer(model, 0)
    fields = {"d_in": tiny_models.D_MODEL, "d_out": tiny_models.D_MODEL, "d_sae": 12}
    transcoder = random_transcoder("standard", **fields).eval().requires_grad_(False)
    transcoder.b_enc.sub_(0.3)
    transcoder.b_enc[DEAD] = -1e3
    tokens = torch.randint(50, (12, 10), generator=torch.Generator().manual_seed(1))
    tokens[:, 0] = 0
    sample = text_sample(hooks, layer, tokens, exclude=torch.tensor([0]))
    return model, hooks, layer, transcoder, sample, feature_records(transcoder, sample, layer=layer)


def test_effects_on_later_blocks_are_those_of_intervene_and_predictions_those_of_the_changed_model(inspected):
    model, hooks, layer, transcoder, sample, records = inspected
    feature = int(np.argmin(np.abs(records.firing_rate - 0.3)))
    called: list[int] = []
    (found,) = change_features(hooks, layer, transcoder, sample, records, [feature], lambda: called.append(1))
    assert called == [1]
    assert found.n_prompts == 8
    prompts = prompts_of(sample, records, feature)
    tokens, kept = sample.origins.tokens[prompts], sample.origins.row_at[prompts] >= 0
    clean = model(tokens).log_softmax(-1)
    factors: dict[Any, float] = {"ablate": -1.0, "double": 1.0}
    for do, factor in factors.items():
        wanted = intervene(transcoder, tokens, feature, layer=layer, model=model, do=do, through="writing", kept=kept)
        effect = found.effects[do]
        assert effect.stages == wanted.stages
        assert effect.changed == wanted.changed
        for name in ("error", "size_layer", "size_transcoder"):
            np.testing.assert_allclose(getattr(effect, name), getattr(wanted, name), rtol=1e-6, atol=1e-9)
        x = tiny_models.carried(model, [layer.hook_in], tokens)[layer.hook_in]
        acts = transcoder.encode(x)[..., feature] * kept
        written = factor * acts[..., None] * transcoder.W_dec[feature]
        hook = [(layer.hook_out, lambda y, hook, written=written: y + written)]
        changed = model.run_with_hooks(tokens, fwd_hooks=hook).log_softmax(-1)
        fires = acts > 0
        kl = (clean.exp() * (clean - changed)).sum(-1)[fires].mean().item()
        moves = (changed - clean)[fires].mean(0).detach()
        of = found.next_token[do]
        assert of.kl == pytest.approx(kl)
        assert of.kl_spliced > 0
        # every token of so small a vocabulary has a probability of .001 somewhere
        assert of.tokens.tolist() == moves.abs().topk(10).indices.tolist()
        np.testing.assert_allclose(of.moves, moves[of.tokens], rtol=1e-6)


def prompts_of(sample: Any, records: Any, feature: int) -> list[int]:
    """The prompts are those of the top rows, and others at which the feature fires."""
    from faithfulness_plugin.inspection.feature_interventions import _prompts

    found = _prompts(sample.origins, records, feature)
    top = [int(sample.origins.prompt[r]) for r in records.top_rows[feature] if r >= 0]
    assert found[: min(4, len(set(top)))] == list(dict.fromkeys(top))[:4]
    assert len(set(found)) == len(found) <= 8
    drawn = records.drawn.rows[feature]
    assert set(found) <= set(sample.origins.prompt[drawn[drawn >= 0]].tolist())
    return found


def test_a_feature_that_never_fires_and_features_that_are_not_there(inspected):
    _, hooks, layer, transcoder, sample, records = inspected
    (found,) = change_features(hooks, layer, transcoder, sample, records, [DEAD])
    assert (found.n_prompts, found.effects, found.next_token) == (0, {}, {})
    with pytest.raises(ValueError, match=r"^the transcoder has no feature 12: pass numbers from 0 to 11$"):
        change_features(hooks, layer, transcoder, sample, records, [1, 12])
    with pytest.raises(ValueError, match=r"^mine has no feature -1: pass numbers from 0 to 11$"):
        require_features([-1], 12, "mine")
    with pytest.raises(ValueError, match="sample is of a bare layer"):
        change_features(hooks, layer, transcoder, row_sample(layer, sample.x), records, [1])


def test_the_first_of_the_table_are_those_with_most_unbacked_and_none_is_dead(inspected):
    records = inspected[-1]
    found = top_features(records, 20)
    assert sorted(found) == np.flatnonzero(~records.dead).tolist()
    assert DEAD not in found
    assert (np.diff(records.unbacked[found]) <= 0).all()
    assert top_features(records, 3) == found[:3]


def test_what_is_no_prediction_or_has_no_blocks_behind_it_is_refused_before_anything_is_computed(inspected):
    _, hooks, layer, *_ = inspected
    require_changeable(hooks, layer)
    with pytest.raises(UsageError, match=r"^what features do .* is in no block.*: pass a layer in a block$"):
        require_changeable(hooks, HookedLayer("hook_embed", "hook_embed", lambda x: x))
    bare = hooks_of(FAMILIES["llama, bare"].model())
    with pytest.raises(UsageError, match=r"^what features do is measured .*: pass a causal language model \(.*\)$"):
        require_changeable(bare, HookedLayer("layers.0.mlp.input", "layers.0.mlp", lambda x: x))


def test_tokens_that_are_never_probable_are_not_shown():
    clean = torch.tensor([[0.5, 0.4999, 1e-4, 1e-9]]).log()
    changed = torch.tensor([[0.25, 0.7398, 0.0102, 1e-3 - 1e-6]]).log()
    found = next_token_moved(clean, clean, changed, clean)
    assert found.tokens.tolist() == [2, 0, 1]
    assert found.moves[0] == pytest.approx(np.log(102), rel=1e-3)
    assert found.kl == pytest.approx((clean.exp() * (clean - changed)).sum().item())
    assert found.kl_spliced == 0
    assert not found.moves_spliced.any()


def test_a_stock_transcoder_in_single_precision(inspected):
    """As loaded from a file: other widths and types than the test above."""
    model, hooks, layer, _, _, _ = inspected
    config = StandardTrainingTranscoderConfig(d_in=tiny_models.D_MODEL, d_sae=6)
    transcoder = StandardTrainingTranscoder(config).eval().requires_grad_(False)
    sample = text_sample(hooks, layer, tiny_models.tokens())
    records = feature_records(transcoder, sample, layer=layer)
    feature = int(records.firing_rate.argmax())
    (found,) = change_features(hooks_of(model), layer, transcoder, sample, records, [feature])
    assert found.n_prompts == 2
    assert found.effects["ablate"].changed > 0
