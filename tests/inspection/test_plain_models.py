"""Measuring and changing features on a plain Hugging Face model, beside the bridge around the same model."""

from typing import Any

import nine_families
import pytest
import torch
from fitted import fitted
from tiny_models import carried
from torch import Tensor

from faithfulness_plugin.inspection.interventions import intervene
from faithfulness_plugin.inspection.text import text_sample
from faithfulness_plugin.language_model.evaluator import TranscoderEvaluator
from faithfulness_plugin.layers.any_model import hooks_of
from faithfulness_plugin.layers.replaced_layer import layer_of

PROMPTS = torch.randint(50, (40, 16), generator=torch.Generator().manual_seed(1))
READ, WRITTEN = "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"


def rows(model: Any) -> list[Tensor]:
    return [x.flatten(0, 1) for x in carried(model, (READ, WRITTEN), PROMPTS).values()]


@pytest.mark.parametrize("family", nine_families.NINE)
def test_a_plain_model_gives_what_its_bridge_gives(family, as_installed):
    plain, bridge = nine_families.plain(family), nine_families.bridge(family)
    x, y = rows(plain)
    transcoder = fitted(x, y, hook_name=READ, hook_name_out=WRITTEN)
    few, found, effects, samples = PROMPTS[:4], [], [], []
    feature = int((transcoder.encode(x) > 0).sum(0).argmax())
    for model in (plain, bridge):
        hooks, layer = hooks_of(model), layer_of(model, [transcoder])
        found.append(TranscoderEvaluator(hooks, {"t": layer}, few).evaluate({"t": transcoder})["t"])
        effects.append(intervene(transcoder, few, feature, model=model, through="writing"))
        samples.append(text_sample(hooks, layer, few))
    t = torch.relu(x[: few.numel()] @ transcoder.W_enc + transcoder.b_enc) @ transcoder.W_dec + transcoder.b_dec
    y = y[: few.numel()]
    assert found[0]["fvu"] == pytest.approx(((t - y).square().sum() / (y - y.mean(0)).square().sum()).item(), rel=1e-4)
    for name, value in found[0].items():
        assert value == (None if value is None else pytest.approx(found[1][name], rel=1e-2, abs=1e-4)), name
    assert effects[0].cosine == pytest.approx(effects[1].cosine, abs=1e-3)
    torch.testing.assert_close(samples[0].x, samples[1].x, rtol=1e-4, atol=1e-5)


def test_an_autoencoder_stands_at_its_one_tensor(as_installed):
    model, name = nine_families.plain("llama"), "model.layers.1.mlp"
    y = rows(model)[1]
    same = fitted(y, y, hook_name=name, hook_name_out=name, autoencoder=True)
    layer, hooks = layer_of(model, [same]), hooks_of(model)
    few = PROMPTS[:4]
    entries = TranscoderEvaluator(hooks, {"t": layer}, few).evaluate({"t": same})["t"]
    here = y[: few.numel()]
    fvu = (same(here) - here).square().sum() / (here - here.mean(0)).square().sum()
    assert entries["fvu"] == pytest.approx(fvu.item())
    clean = model(few).logits
    with torch.no_grad():
        handle = model.get_submodule(name).register_forward_hook(lambda module, args, y: same(y))
        spliced = model(few).logits
        handle.remove()
    kl = (clean.softmax(-1) * (clean.log_softmax(-1) - spliced.log_softmax(-1))).sum(-1)[:, :-1].mean()
    assert entries["kl"] == pytest.approx(kl.item(), rel=1e-3)
    effect = intervene(same, few, 3, model=model, do="steer", value=1.0, through="writing")
    assert effect.stages == ("model.layers.1",)
