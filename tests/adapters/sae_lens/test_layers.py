from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models
import torch

from faithfulness_plugin.adapters.hooked_layer import LayerError
from faithfulness_plugin.adapters.sae_lens.layers import layer_of
from faithfulness_plugin.adapters.transformer_lens import TransformerLensHooks


def says(hook_in: str | None, hook_out: str | None = None) -> Any:
    metadata = SimpleNamespace(hook_name=hook_in, hook_name_out=hook_out)
    return SimpleNamespace(cfg=SimpleNamespace(metadata=metadata))


def carried(model: Any, *names: str) -> list[torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}
    hooks = {name: lambda a, name=name: seen.update({name: a.detach()}) for name in names}
    TransformerLensHooks(model).run(tiny_models.tokens(), hooks)
    return [seen[name] for name in names]


MODELS = {
    "sae": (lambda: tiny_models.hooked(sae=True), "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"),
    "bridge": (lambda: tiny_models.bridge("llama"), "blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_an_mlps_own_hooks_are_that_mlp(kind):
    make, hook_in, hook_out = MODELS[kind]
    model = make()
    for transcoder in (says(hook_in), says(hook_in, hook_out), says(hook_in, "blocks.1.hook_mlp_out")):
        layer = layer_of(model, [transcoder])
        assert (layer.hook_in, layer.hook_out, layer.runs_model) == (hook_in, hook_out, False)


@pytest.mark.filterwarnings("ignore:A forward hook edited")  # a bridge says so of hooks within a norm
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("named", [True, False])
def test_before_the_norms_scale_the_layer_is_the_mlp_with_it(kind, named):
    make, own, hook_out = MODELS[kind]
    model, hook_in = make(), "blocks.1.ln2.hook_normalized"
    layer = layer_of(model, [says(hook_in, hook_out if named else None)])
    x, inside, y = carried(model, hook_in, own, hook_out)
    assert (x - inside).norm() > 0.1 * inside.norm()  # another input
    torch.testing.assert_close(layer(x.flatten(0, 1)), y.flatten(0, 1))


def test_hooks_of_no_mlp_need_both_ends():
    model = tiny_models.bridge("llama")
    with pytest.raises(ValueError, match="and not where they write"):
        layer_of(model, [says("blocks.1.hook_resid_mid")])
    with pytest.raises(LayerError):
        layer_of(model, [says("blocks.0.hook_resid_pre", "blocks.1.mlp.hook_out")])


def test_what_is_asked_for_goes_before_what_metadata_say():
    model = tiny_models.bridge("llama")
    assert layer_of(model, [says("blocks.1.mlp.hook_in")], block=0).hook_in == "blocks.0.mlp.hook_in"
    hook_in, hook_out = "blocks.0.mlp.hook_in", "blocks.0.mlp.hook_out"
    assert layer_of(model, [says(None)], hook_in=hook_in, hook_out=hook_out).hook_in == hook_in
    with pytest.raises(ValueError, match="Their metadata say None"):
        layer_of(model, [says(None)])
    with pytest.raises(ValueError, match=r"say blocks.0.mlp.hook_in, blocks.1.mlp.hook_in"):
        layer_of(model, [says("blocks.1.mlp.hook_in"), says("blocks.0.mlp.hook_in")])
    with pytest.raises(ValueError, match="write at different places"):
        layer_of(model, [says("blocks.0.mlp.hook_in", "a"), says("blocks.0.mlp.hook_in", "b")])
