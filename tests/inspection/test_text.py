import pytest
import tiny_models
import torch

from faithfulness_plugin.adapters.transformer_lens.hooks import TransformerLensHooks
from faithfulness_plugin.inspection.text import text_sample
from faithfulness_plugin.layers.any_model import mlp_layer
from faithfulness_plugin.store.left_out import LeftOut


@pytest.mark.exact("whole numbers and masks")
@pytest.mark.parametrize("kind", ["hooked", "sae", "bridge", "sae bridge"])
@pytest.mark.parametrize("memory", [1.0, 1e-9])
def test_rows_are_what_the_model_carries_at_each_token_that_is_not_left_out(kind, memory):
    model = {
        "hooked": lambda: tiny_models.hooked(None),
        "sae": lambda: tiny_models.hooked(sae=True),
        "bridge": lambda: tiny_models.bridge("llama"),
        "sae bridge": tiny_models.sae_bridge,
    }[kind]()
    layer = mlp_layer(model, 1)
    tokens = torch.randint(5, 50, (5, 7), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 0
    seen: list[int] = []
    sample = text_sample(
        TransformerLensHooks(model),
        layer,
        tokens,
        exclude=torch.tensor([0]),
        prompts_per_pass=2,
        memory=memory,
        on_prompts=seen.append,
    )
    carried: dict[str, torch.Tensor] = {}
    hooks = {name: lambda a, name=name: carried.update({name: a}) for name in (layer.hook_in, layer.hook_out)}
    TransformerLensHooks(model).run(tokens, hooks)
    torch.testing.assert_close(sample.x, carried[layer.hook_in][:, 1:].flatten(0, 1).detach())
    torch.testing.assert_close(sample.y, carried[layer.hook_out][:, 1:].flatten(0, 1).detach())
    torch.testing.assert_close(layer(sample.x), sample.y)
    assert seen == [2, 2, 1]
    of = sample.origins
    assert of is not None
    assert torch.equal(of.row_at[of.prompt, of.position], torch.arange(30))
    assert (of.row_at[:, 0] == -1).all()


def test_a_text_of_special_tokens_alone_is_refused():
    model = tiny_models.bridge("llama")
    with pytest.raises(ValueError, match=r"no row is left to look at.*8 special tokens"):
        text_sample(
            TransformerLensHooks(model),
            mlp_layer(model, 0),
            torch.zeros(2, 4, dtype=torch.long),
            exclude=torch.tensor([0]),
        )


def test_first_positions_and_rows_of_extreme_norm_are_left_out_and_counted():
    model = tiny_models.bridge("llama")
    hooks, layer = TransformerLensHooks(model), mlp_layer(model, 1)
    tokens = torch.randint(5, 50, (5, 7), generator=torch.Generator().manual_seed(0))
    whole = text_sample(hooks, layer, tokens)
    later = text_sample(hooks, layer, tokens, exclude=LeftOut(skip_first=2))
    torch.testing.assert_close(later.x, whole.x.view(5, 7, -1)[:, 2:].flatten(0, 1))
    assert later.origins is not None
    assert later.origins.position.min() == 2
    assert str(later.origins.left_out) == "25 of 35 tokens count; left out: 10 at the first positions"
    norms = torch.stack([whole.x.norm(dim=1), whole.y.norm(dim=1)])
    usual = (norms <= 1.2 * norms.median(dim=1, keepdim=True).values).all(0)
    within = text_sample(hooks, layer, tokens, exclude=LeftOut(norms_above=1.2))
    assert 0 < usual.sum() < 35
    torch.testing.assert_close(within.x, whole.x[usual])


def test_prompts_that_do_not_fit_the_model_are_refused():
    model = tiny_models.bridge("llama")
    hooks, layer = TransformerLensHooks(model), mlp_layer(model, 1)
    with pytest.raises(ValueError, match="33 tokens do not fit the model, which has 32 positions"):
        text_sample(hooks, layer, torch.zeros(1, 33, dtype=torch.long))
    with pytest.raises(ValueError, match="token id 50 is outside the model's vocabulary, 0 to 49"):
        text_sample(hooks, layer, torch.full((1, 3), 50))
