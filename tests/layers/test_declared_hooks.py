import contextlib
import copy
from types import SimpleNamespace
from typing import Any

import nine_families
import pytest
import tiny_models
import torch
import transformers as hf
from tiny_models import carried
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

from faithfulness_plugin.adapters.huggingface.flattened_rows import by_position
from faithfulness_plugin.adapters.huggingface.hooks import HuggingFaceHooks
from faithfulness_plugin.adapters.huggingface.places import Place
from faithfulness_plugin.layers.any_model import hooks_of
from faithfulness_plugin.layers.check_layer import LayerError
from faithfulness_plugin.layers.declared_hooks import block_of
from faithfulness_plugin.layers.replaced_layer import layer_of, pair_of
from faithfulness_plugin.layers.same_tensor import same_tensor


def says(hook_in: str | None, hook_out: str | None = None, **more: Any) -> Any:
    metadata = SimpleNamespace(hook_name=hook_in, hook_name_out=hook_out, **more)
    return SimpleNamespace(cfg=SimpleNamespace(metadata=metadata))


def of(model: Any, name: str) -> torch.Tensor:
    return carried(model, [name])[name]


def seen_at(model: Any, module: str, side: str) -> torch.Tensor:
    """Read it by torch's own hooks."""
    seen: list[torch.Tensor] = []
    at = model.get_submodule(module)
    if side == "input":
        handle = at.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    else:
        handle = at.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    with torch.no_grad():
        model(tiny_models.tokens())
    handle.remove()
    return seen[0].reshape(2, 6, -1)


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
    x, inside, y = carried(model, (hook_in, own, hook_out)).values()
    assert (x - inside).norm() > 0.1 * inside.norm()  # another input
    torch.testing.assert_close(layer(x.flatten(0, 1)), y.flatten(0, 1))


def test_hooks_of_no_mlp_need_both_ends():
    model = tiny_models.bridge("llama")
    with pytest.raises(ValueError, match="and not where they write"):
        layer_of(model, [says("blocks.1.hook_resid_mid")])
    with pytest.raises(LayerError):
        layer_of(model, [says("blocks.0.hook_resid_pre", "blocks.1.mlp.hook_out")])


def test_files_that_name_several_layers_or_none():
    model = tiny_models.bridge("llama")
    with pytest.raises(ValueError, match="Their metadata say None"):
        layer_of(model, [says(None)])
    with pytest.raises(ValueError, match=r"say blocks.0.mlp.hook_in, blocks.1.mlp.hook_in"):
        layer_of(model, [says("blocks.1.mlp.hook_in"), says("blocks.0.mlp.hook_in")])
    with pytest.raises(ValueError, match="write at different places"):
        layer_of(model, [says("blocks.0.mlp.hook_in", "a"), says("blocks.0.mlp.hook_in", "b")])


@pytest.mark.filterwarnings("ignore:A forward hook edited")
def test_a_layer_is_picked_and_overrides_nothing():
    model = tiny_models.bridge("llama")
    declared = says("blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out")
    assert layer_of(model, [declared], block=1).hook_in == "blocks.1.ln2.hook_normalized"
    with pytest.raises(ValueError, match=r"layer 0 was asked for, and .* at blocks.1.ln2.hook_normalized, in block 1"):
        layer_of(model, [declared], block=0)
    assert layer_of(model, [says(None)], block=0).hook_in == "blocks.0.mlp.hook_in"
    assert layer_of(model, [says(None, layer=0)]).hook_in == "blocks.0.mlp.hook_in"
    with pytest.raises(ValueError, match="layer 1 was asked for, and the transcoder says that it is of layer 0"):
        layer_of(model, [says(None, layer=0)], block=1)


def test_an_override_that_contradicts_the_file_has_to_be_confirmed():
    model = tiny_models.bridge("gemma2")
    declared = [says("blocks.1.ln2.hook_out", "blocks.1.hook_mlp_out")]
    own: Any = {"hook_in": "blocks.1.mlp.hook_in", "hook_out": "blocks.1.ln2_post.hook_out"}
    assert pair_of(model, declared, **own) == (*own.values(), None)  # other names of the same tensors
    wrong: Any = {"hook_out": "blocks.1.mlp.hook_out"}
    with pytest.raises(ValueError, match=r"says blocks.1.hook_mlp_out, which is another tensor"):
        pair_of(model, declared, **wrong)
    confirmed = pair_of(model, declared, **wrong, anyway=True)
    assert confirmed == (
        "blocks.1.ln2.hook_out",
        "blocks.1.mlp.hook_out",
        (declared[0].cfg.metadata.hook_name, "blocks.1.hook_mlp_out"),
    )
    assert layer_of(model, declared, **wrong, anyway=True).hook_out == "blocks.1.mlp.hook_out"
    with pytest.raises(ValueError, match="pass both"):
        pair_of(model, [says(None)], hook_in="blocks.1.mlp.hook_in")
    with pytest.raises(ValueError, match=r"layer 0 was asked for, and blocks.1.mlp.hook_in, which is in block 1"):
        pair_of(model, [says(None)], layer=0, hook_in=own["hook_in"], hook_out=own["hook_out"])


def test_what_attention_adds_is_another_tensor_however_little_it_is():
    model = tiny_models.hugging_face("llama")
    model.model.layers[1].self_attn.o_proj.weight.data *= 1e-9
    pre, mid, out = (f"blocks.1.{name}" for name in ("hook_resid_pre", "hook_resid_mid", "mlp.hook_out"))
    torch.testing.assert_close(of(model, mid), of(model, pre), rtol=1e-6, atol=0)
    assert not same_tensor(hooks_of(model), pre, mid)
    with pytest.raises(
        ValueError, match=f"{pre} was asked for, and the transcoder says {mid}, which is another tensor"
    ):
        pair_of(model, [says(mid, out)], hook_in=pre)


def test_hugging_faces_names_go_before_transformer_lenss():
    model = tiny_models.bridge("gemma2")
    declared = says(
        "blocks.1.hook_mlp_in",
        "blocks.1.hook_mlp_out",
        hf_hook_name="model.layers.1.pre_feedforward_layernorm.output",
        hf_hook_name_out="model.layers.1.post_feedforward_layernorm.output",
    )
    layer = layer_of(model, [declared])
    x, y = carried(model, ("blocks.1.mlp.hook_in", "blocks.1.ln2_post.hook_out")).values()
    torch.testing.assert_close(layer(x), y)


PLACES = {
    "gemma2": ("pre_feedforward_layernorm", "post_feedforward_layernorm"),
    "gemma3": ("pre_feedforward_layernorm", "post_feedforward_layernorm"),
    "olmo2": ("mlp.input", "post_feedforward_layernorm"),
    "gpt2": ("ln_2", "mlp"),
    "neox": ("post_attention_layernorm", "mlp"),
    "opt": ("fc1.input", "fc2"),
    "granite": ("post_attention_layernorm", "mlp"),
}
"""The places of the MLP's input and of what is added to the stream, where they are not as in Llama."""


@pytest.mark.filterwarnings("ignore:A forward hook edited")
@pytest.mark.parametrize("family", nine_families.FAMILIES)
def test_names_stand_for_the_same_tensors_on_a_bridge_and_on_the_model_that_it_wraps(family):
    plain, bridged = nine_families.plain(family), nine_families.bridge(family)
    theirs = {"blocks.1.mlp.hook_in": "post_attention_layernorm", "blocks.1.hook_mlp_out": "mlp"}
    theirs = dict(zip(theirs, PLACES.get(family, theirs.values()), strict=True))
    names = HuggingFaceHooks(plain).block_names(1)
    assert {"blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out", "blocks.1.ln2.hook_normalized"} <= {*names}
    expected = {}
    for ours, module in theirs.items():
        side, name = (".input" if module.endswith(".input") else ""), module.removesuffix(".input")
        (whole,) = [n for n, _ in plain.named_modules() if n.endswith(f".1.{name}")]
        value = seen_at(plain, whole, "input" if side else "output")
        scale = 0.25 if (family, ours) == ("granite", "blocks.1.hook_mlp_out") else 1
        expected |= {ours: value * scale, whole + side: value, whole + (side or ".output"): value}
    here, there = carried(plain, {*names, *expected}), carried(bridged, {*names, *expected})
    for name in {*names, *expected}:
        torch.testing.assert_close(here[name], there[name], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(here[name], expected.get(name, here[name]))


@pytest.mark.parametrize("family", nine_families.FAMILIES)
def test_what_is_put_in_on_a_plain_model_is_what_is_read_there(family):
    model = nine_families.plain(family)
    hooks = HuggingFaceHooks(model)
    for name in hooks.block_names(1):
        place, there = hooks.place(name), list[torch.Tensor]()
        value = torch.randn(2, 6, 16, dtype=torch.float64)
        view = place.view
        with contextlib.ExitStack() as stack:
            for hook in (lambda a, value=value: value, lambda a, there=there: there.append(a)):
                at = Place(place.module, place.side) if "append" in str(hook.__code__.co_names) else place
                stack.callback(at.register(by_position(name, hook, 2, 6)).remove)
            model(tiny_models.tokens())
        torch.testing.assert_close(there[0], value if view is None else view.output(value))


def test_what_is_added_to_the_stream_is_what_the_block_adds():
    for family in nine_families.FAMILIES:
        model = nine_families.plain(family)
        names = [f"blocks.1.{n}" for n in ("hook_resid_mid", "hook_mlp_out", "hook_resid_post")]
        if "blocks.1.hook_resid_mid" in HuggingFaceHooks(model).block_names(1):
            mid, added, post = carried(model, names).values()
            torch.testing.assert_close(mid + added, post)


REFUSED = {
    "hook_attn_out": ("llama", "is no tensor that is found in a Hugging Face model"),
    "hook_resid_mid": ("neox", "parallel attention"),
    "ln2_post.hook_out": ("llama", "has no such norm"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_cannot_be_resolved_is_refused_by_name(name):
    family, message = REFUSED[name]
    with pytest.raises(ValueError, match=rf"blocks\.1\.{name}.*{message}"):
        hooks_of(nine_families.plain(family)).require(f"blocks.1.{name}")


def test_a_hooked_transformers_folded_norm_is_no_hugging_face_tensor():
    model = tiny_models.hooked("LNPre")
    with pytest.raises(ValueError, match="folded into the weights"):
        hooks_of(model).require("transformer.h.1.ln_2")
    unfolded = tiny_models.hooked("LN")
    x = of(unfolded, "transformer.h.1.ln_2")
    torch.testing.assert_close(unfolded.blocks[1].mlp(x), of(unfolded, "transformer.h.1.mlp"))
    torch.testing.assert_close(of(unfolded, "blocks.1.mlp.hook_in"), x)
    torch.testing.assert_close(of(unfolded, "transformer.h.1.input"), of(unfolded, "blocks.1.hook_resid_pre"))


@pytest.mark.exact("the identity returns what it is given")
def test_an_autoencoder_is_the_identity_at_its_tensor_where_it_is_asked_for():
    model, name = nine_families.plain("llama"), "model.layers.1.mlp"
    with pytest.raises(ValueError, match="autoencoder"):
        layer_of(model, [says(name, name)])
    layer = layer_of(model, [says(name, name, autoencoder=True)])
    x = of(model, name)
    assert layer.hook_in == layer.hook_out == name
    assert torch.equal(layer(x), x)
    with pytest.raises(ValueError, match="and not the residual stream"):
        layer_of(model, [says("blocks.1.hook_resid_mid", autoencoder=True)])


@pytest.mark.exact("the identity returns what it is given")
def test_an_autoencoder_that_names_no_tensor_is_not_taken_for_one_of_the_mlp():
    model, name = nine_families.plain("llama"), "blocks.1.hook_resid_post"
    x = of(model, name)
    for unnamed in (says(None, layer=1, autoencoder=True), says(None, hookpoint="my_run", autoencoder=True)):
        with pytest.raises(ValueError, match=r"names no tensor: pass the one that it reads and writes \(--hook-in\)"):
            layer_of(model, [unnamed], block=1)
        for hook_in, hook_out in ((name, None), (None, name), (name, name)):
            assert torch.equal(layer_of(model, [unnamed], block=1, hook_in=hook_in, hook_out=hook_out)(x), x)
        with pytest.raises(ValueError, match="are two: pass hook_in alone"):
            layer_of(model, [unnamed], hook_in="blocks.1.mlp.hook_in", hook_out="blocks.1.mlp.hook_out")
    named = says("blocks.1.hook_mlp_out", autoencoder=True)
    assert torch.equal(layer_of(model, [named], hook_in=name, anyway=True)(x), x)
    with pytest.raises(ValueError, match="--hooks-anyway"):
        layer_of(model, [named], hook_in=name)


def test_what_a_norm_without_a_scale_normalizes_is_what_it_puts_out():
    """A bridge cannot replace the former in OLMo, whose norms have no weights."""
    torch.manual_seed(3)
    plain = hf.OlmoForCausalLM(hf.OlmoConfig(pad_token_id=0, **tiny_models.GROUPED)).double().eval()
    bridge = build_bridge_from_module(copy.deepcopy(plain), type(plain).__name__, hf_config=plain.config)
    x, y = seen_at(plain, "model.layers.1.mlp", "input"), seen_at(plain, "model.layers.1.mlp", "output")
    for model in (plain, bridge):
        layer = layer_of(model, [says("blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out")])
        torch.testing.assert_close(of(model, layer.hook_in), x, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(layer(x).detach(), y, rtol=1e-6, atol=1e-6)


def test_sparsifys_hookpoint_is_a_modules_input_and_output():
    for model in (nine_families.plain("llama"), nine_families.bridge("llama"), tiny_models.hooked(sae=True)):
        layer = layer_of(model, [says(None, hookpoint="layers.1.mlp")])
        torch.testing.assert_close(layer(of(model, layer.hook_in)), of(model, layer.hook_out))
        assert block_of(layer.hook_in) == 1
    with pytest.raises(ValueError, match="Their metadata say None"):  # a folder's name
        layer_of(nine_families.plain("llama"), [says(None, hookpoint="seed1")])
