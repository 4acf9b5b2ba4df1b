"""The rule applied to prompts of a model."""

import pytest
import tiny_models
import torch

from faithfulness_plugin.adapters.huggingface.hooks import HuggingFaceHooks
from faithfulness_plugin.adapters.transformer_lens.hooks import TransformerLensHooks
from faithfulness_plugin.layers.any_model import mlp_layer
from faithfulness_plugin.layers.any_model import mlp_layer as plain_mlp_layer
from faithfulness_plugin.store.fill import rows_kept
from faithfulness_plugin.store.kept_rows import kept_rows
from faithfulness_plugin.store.left_out import LeftOut

TOKENS = torch.randint(1, 50, (6, 8), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("kind", ["hooked", "bridge", "hugging face"])
@pytest.mark.exact("masks: no norm is so near its limit that rounding decides")
def test_each_token_counts_once_for_the_first_reason_that_there_is(kind):
    if kind == "hugging face":
        model = tiny_models.hugging_face("gpt2")
        hooks, layer = HuggingFaceHooks(model), plain_mlp_layer(model, 0)
    else:
        model = tiny_models.hooked() if kind == "hooked" else tiny_models.bridge("llama")
        hooks, layer = TransformerLensHooks(model), mlp_layer(model, 0)
    tokens = TOKENS.clone()
    tokens[0, 0] = tokens[2, 5] = 0
    found = kept_rows(hooks, layer, tokens, LeftOut((0,), 1, 1.05), batch_size=4)
    places = LeftOut((0,), 1).places(tokens)
    carried = rows_kept(hooks, {layer.hook_in, layer.hook_out}, tokens, torch.ones_like(places))
    usual = places.clone()
    for rows in carried.values():
        norms = rows.norm(dim=-1).view(tokens.shape)
        usual &= norms <= 1.05 * norms[places].median()
    assert torch.equal(found.mask, usual)
    assert (found.counts.positions, found.counts.special) == (6, 1)
    assert found.counts.norms == 48 - 6 - 1 - int(usual.sum()) > 0
    again = kept_rows(hooks, layer, tokens[:2], found.exclude)  # fitted to all of them
    assert torch.equal(again.mask, usual[:2])


def test_without_norms_the_model_is_not_run():
    model = tiny_models.bridge("llama")
    hooks, layer = TransformerLensHooks(model), mlp_layer(model, 0)
    hooks.run = None  # pyright: ignore[reportAttributeAccessIssue]
    assert kept_rows(hooks, layer, TOKENS, torch.tensor([1])).counts.positions == 0


@pytest.mark.parametrize("rule", [LeftOut(skip_first=8), LeftOut(tuple(range(50)))])
def test_nothing_left_is_refused(rule):
    model = tiny_models.bridge("llama")
    with pytest.raises(ValueError, match="no row is left to look at"):
        kept_rows(TransformerLensHooks(model), mlp_layer(model, 0), TOKENS, rule)
