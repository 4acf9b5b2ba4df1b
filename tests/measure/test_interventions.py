"""Changes downstream and deletion curves: against what is known, and against the slow way."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import tiny_hub
import torch
from torch import nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from faithfulness_plugin import (
    StandardTrainingTranscoder,
    StandardTrainingTranscoderConfig,
    TopKTrainingTranscoder,
    TopKTrainingTranscoderConfig,
)
from faithfulness_plugin.adapters.transformer_lens.hooks import TransformerLensHooks
from faithfulness_plugin.language_model.config import ModelSource
from faithfulness_plugin.language_model.model import load_model
from faithfulness_plugin.layers.any_model import mlp_layer
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.spliced import run_spliced, stages_after
from faithfulness_plugin.measure.interventions import Interventions
from faithfulness_plugin.measure.references import mean_ablation, shuffled_decoder

pytestmark = pytest.mark.usefixtures("as_installed")
D, D_SAE = tiny_hub.D_MODEL, 24


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny_hub.write_model(tmp_path_factory.mktemp("hub") / "model")
    return load_model(ModelSource(name=str(folder)), "cpu")


@pytest.fixture
def parts(model):
    hooks, layer = TransformerLensHooks(model), mlp_layer(model, 0)
    tokens = torch.randint(3, tiny_hub.N_TOKENS, (6, 9), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 0
    torch.manual_seed(2)
    transcoder = StandardTrainingTranscoder(StandardTrainingTranscoderConfig(d_in=D, d_sae=D_SAE)).eval()
    return SimpleNamespace(hooks=hooks, layer=layer, tokens=tokens, kept=tokens != 0, transcoder=transcoder)


def interventions(parts) -> Interventions:
    return Interventions(parts.hooks, parts.layer, parts.tokens, parts.kept, parts.transcoder)


class TheLayer(HookedRootModule):
    """What a transcoder would be that does as the layer does."""

    def __init__(self, layer) -> None:
        super().__init__()
        self.layer, self.hook_sae_acts_post = layer, HookPoint()
        self.setup()

    def forward(self, x):
        return self.layer(self.hook_sae_acts_post(x))


def test_a_run_with_the_layer_itself_in_the_layers_place_is_the_models_own(parts):
    seen = run_spliced(parts.hooks, parts.layer, parts.tokens, parts.kept, TheLayer(parts.layer))
    torch.testing.assert_close(seen.logits, parts.hooks.run(parts.tokens, {}), rtol=1e-4, atol=1e-5)
    spliced = run_spliced(parts.hooks, parts.layer, parts.tokens, parts.kept, parts.transcoder)
    assert (spliced.logits - seen.logits).abs().max() > 0.01
    assert spliced.acts is not None
    assert spliced.acts.shape == (6, 9, D_SAE)


def test_stages_are_those_from_the_layers_block_on(model, parts):
    assert stages_after(parts.hooks, parts.layer) == [f"blocks.{i}.hook_resid_post" for i in range(2)]
    assert stages_after(parts.hooks, mlp_layer(model, 1)) == ["blocks.1.hook_resid_post"]
    with pytest.raises(ValueError, match="in no block"):
        stages_after(parts.hooks, HookedLayer("hook_embed", "hook_embed", torch.abs))


def test_the_layer_itself_has_all_effects_and_the_mean_has_none_of_the_inputs(parts):
    of_layer = interventions(parts).effects(cast(Any, TheLayer(parts.layer)))
    for stages in of_layer.values():
        for stage in stages:
            assert (stage.error, stage.cosine) == pytest.approx((0, 1), abs=1e-4)
    mean = mean_ablation(parts.transcoder, torch.randn(50, D))
    first = interventions(parts).effects(mean)["input"][0]
    assert (first.error, first.cosine) == pytest.approx((1, 0), abs=1e-6)


def test_the_effect_of_a_feature_on_its_own_block_is_what_it_writes_in_both_models(parts):
    own_block = interventions(parts).effects(parts.transcoder)["feature"][0]
    assert (own_block.error, own_block.cosine) == pytest.approx((0, 1), abs=1e-4)


def test_attributions_are_derivatives_of_the_score(parts):
    of = interventions(parts)
    acts, attributions, before = of._attributions(parts.transcoder)
    torch.testing.assert_close(before, of._score(parts.transcoder, lambda a: a))
    prompt, position, feature = (acts > 0).nonzero()[3].tolist()
    less = torch.ones_like(acts)
    less[prompt, position, feature] = 1 - 1e-2
    after = of._score(parts.transcoder, lambda a: a * less)
    assert ((before - after)[prompt] / 1e-2).item() == pytest.approx(
        attributions[prompt, position, feature].item(), rel=0.1, abs=1e-3
    )


def test_the_curve_is_that_of_scores_with_features_taken_away_one_by_one(parts):
    of = interventions(parts)
    record = of.deletion(parts.transcoder, sizes=(1, 4))
    assert record is not None
    acts, attributions, _ = of._attributions(parts.transcoder)
    whole, empty = of._score(parts.transcoder, lambda a: a), of._score(parts.transcoder, torch.zeros_like)
    for place, m in enumerate((1, 4)):
        lost = []
        for prompt in range(len(acts)):
            active = [(i, j) for i, j in (acts[prompt] > 0).nonzero().tolist()]
            ranked = sorted(active, key=lambda at: -attributions[prompt][at].item())[:m]
            mask = torch.ones_like(acts)
            for i, j in ranked:
                mask[prompt, i, j] = 0
            score = of._score(parts.transcoder, lambda a, mask=mask: a * mask)[prompt]
            lost.append(((whole[prompt] - score) / (whole - empty)[prompt].abs()).clamp(-1, 1).item())
        assert record.by_attribution[place] == pytest.approx(sum(lost) / len(lost), abs=1e-3)
    assert record.excess[0] == pytest.approx(record.by_attribution[0] - record.at_random[0])
    torch.nn.init.constant_(parts.transcoder.b_enc, -1e3)
    assert of.deletion(parts.transcoder, sizes=(1, 4)) is None


@pytest.mark.bitwise("the same runs of the same shapes in one process")
def test_what_the_model_makes_of_changes_is_computed_once_and_scores_need_one_position(parts, monkeypatch):
    of, runs, shapes = interventions(parts), [], []
    whole_run = parts.hooks.run

    def counted(tokens, hooks, last=None):
        runs.append(last)
        logits = whole_run(tokens, hooks, last)
        shapes.append(tuple(logits.shape[:2]))
        return logits

    monkeypatch.setattr(parts.hooks, "run", counted)
    together = [of.effects(t) for t in (parts.transcoder, mean_ablation(parts.transcoder, torch.randn(50, D)))]
    # clean and both changes, with either stand-in and in the model; and the run that finds the largest features
    assert len(runs) == 3 * 3 + 1
    monkeypatch.undo()
    alone = [interventions(parts).effects(parts.transcoder)]
    assert alone[0] == together[0]
    monkeypatch.setattr(parts.hooks, "run", counted)
    runs.clear()
    shapes.clear()
    shares: list[float] = []
    assert of.deletion(parts.transcoder, sizes=(1, 4), on_run=shares.append) is not None
    assert runs == [2] * (1 + 1 + 2 * 2)  # with a gradient, without features, and two deletions of each size
    assert shapes == [(6, 2)] * 6
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_prompts_without_a_token_to_change_are_left_out_and_none_at_all_refused(parts):
    parts.kept[0] = False
    assert len(interventions(parts).tokens) == 5
    parts.kept[:] = False
    with pytest.raises(ValueError, match="no prompt has a token to change"):
        interventions(parts)


@pytest.mark.exact("masks, of pre-activations further from 0 than rounding reaches")
@pytest.mark.parametrize("rescaled", [False, True])
def test_a_shuffled_decoder_changes_directions_and_neither_norms_nor_which_features_fire(rescaled):
    torch.manual_seed(4)
    config = TopKTrainingTranscoderConfig(d_in=D, d_sae=D_SAE, k=3, rescale_acts_by_decoder_norm=rescaled)
    transcoder, x = TopKTrainingTranscoder(config).eval(), torch.randn(50, D)
    with torch.no_grad():
        transcoder.W_dec.mul_(torch.rand(D_SAE, 1) + 0.1)  # which TopK ranks by
    shuffled = shuffled_decoder(transcoder)
    assert torch.equal(shuffled.encode(x) > 0, transcoder.encode(x) > 0)
    torch.testing.assert_close(shuffled.W_dec.norm(dim=1), transcoder.W_dec.norm(dim=1))
    unit, before = (nn.functional.normalize(w.W_dec.detach(), dim=1) for w in (shuffled, transcoder))
    cosines = unit @ before.T
    assert sorted(cosines.argmax(1).tolist()) == list(range(D_SAE))
    assert cosines.max(1).values.min() == pytest.approx(1, abs=1e-5)


@pytest.mark.exact("copies of the same numbers")
def test_references_leave_the_transcoder_as_it_is(parts):
    before = parts.transcoder.W_dec.clone()
    shuffled, x = shuffled_decoder(parts.transcoder), torch.randn(20, D)
    assert not torch.equal(shuffled.W_dec, before)
    torch.testing.assert_close(shuffled.encode(x), parts.transcoder.encode(x))
    outputs = torch.randn(30, D)
    torch.testing.assert_close(mean_ablation(parts.transcoder, outputs)(x), outputs.mean(0).expand(20, D))
    assert torch.equal(parts.transcoder.W_dec, before)
