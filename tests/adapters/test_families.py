import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from families import (
    FAMILIES,
    PICTURES,
    Family,
    mamba,
    pixels,
    rwkv,
    some_numbers,
    some_tokens,
    sound,
    speech_to_text,
    switch,
    t5,
    text_pair,
)
from oracles import central_difference
from tiny_models import GROUPED, hugging_face, set_large
from torch import Tensor, nn

from faithfulness_plugin import layer_jvp
from faithfulness_plugin.adapters.huggingface.hooks import HuggingFaceHooks
from faithfulness_plugin.layers.any_model import layer_between, mlp_layer
from faithfulness_plugin.layers.check_layer import LayerError
from faithfulness_plugin.layers.derivatives import double_vjp
from faithfulness_plugin.layers.hooks import NoLogits
from faithfulness_plugin.layers.mlp_weights import checked_mlp_weights
from faithfulness_plugin.layers.normed_mlp import NormedMlp
from faithfulness_plugin.store.fill import rows_at


def carried(model: nn.Module, first: str, last: str, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The rows that two modules are given and put out, by hooks of torch's own."""
    seen: list[Tensor] = []

    def keep(tensor: Any) -> None:
        seen.append((tensor[0] if isinstance(tensor, tuple) else tensor).detach().flatten(0, -2).clone())

    handles = [
        model.get_submodule(first).register_forward_pre_hook(lambda module, args: keep(args[0])),
        model.get_submodule(last).register_forward_hook(lambda module, args, output: keep(output)),
    ]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return seen[0], seen[1]


def family(name: str) -> tuple[Family, nn.Module, Tensor, Tensor]:
    found = FAMILIES[name]
    model = found.model()
    return found, model, *carried(model, found.first, found.last or found.first, found.inputs())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_layer_of_every_family_is_what_the_model_computes(name):
    found, model, x, y = family(name)
    layer = mlp_layer(model, found.block)
    assert (layer.hook_in, layer.hook_out) == (found.first + ".input", found.last or found.first)
    torch.testing.assert_close(layer(x), y)
    v = torch.randn_like(x)
    Jv, weights = layer_jvp(layer, x, v)[1], checked_mlp_weights(layer, x)
    torch.testing.assert_close(Jv, double_vjp(layer, x, v)[1], rtol=1e-5, atol=1e-6)
    assert (weights is not None) == found.closed_form
    if weights is not None:
        torch.testing.assert_close(Jv, central_difference(layer, x, v), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(weights.output(3 * v), layer(3 * v))
        torch.testing.assert_close(weights.jacobian(x).jvp(v), Jv)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_layer_between_the_ends_of_the_mlp_is_the_mlp(name):
    found, model, x, y = family(name)
    layer = layer_between(model, found.first + ".input", found.last or found.first)
    x, y, v = x[:3], y[:3], torch.randn_like(x[:3])
    torch.testing.assert_close(layer(x), y)
    torch.testing.assert_close(layer_jvp(layer, x, v)[1], layer_jvp(mlp_layer(model, found.block), x, v)[1])


REASONS: dict[str, tuple[Callable[[], nn.Module], int | str]] = {
    "block 0 has no MLP (it is a NemotronHBlock of NemotronHMamba2Mixer): choose block 2": (
        FAMILIES["nemotron h"].model,
        0,
    ),
    "no block of MambaForCausalLM has an MLP (block 0 is a MambaBlock of MambaMixer)": (mamba, 1),
    "there is no block 2: the model has blocks 0 to 1 in encoder.block, and others in decoder.block": (t5, 2),
    "the model has no module decoder.block.7": (t5, "decoder.block.7"),
    "decoder.block.1.layer.0 (T5LayerSelfAttention of T5Attention, Dropout) has no MLP in it": (
        t5,
        "decoder.block.1.layer.0",
    ),
    "reads input_features of a shape that its configuration does not say": (speech_to_text, 0),
    "rwkv.blocks.1.feed_forward: attention lies between them, or a convolution or a recurrence": (rwkv, 1),
}


@pytest.mark.parametrize("reason", REASONS)
def test_where_there_is_no_layer_the_reason_is_one_true_line(reason):
    make, block = REASONS[reason]
    model = make().double().eval()
    set_large(model)
    with pytest.raises(ValueError, match=re.escape(reason)) as error:
        mlp_layer(model, block)
    assert "\n" not in str(error.value)


def test_an_encoder_block_comes_first_and_text_before_pictures_that_are_not_run():
    assert mlp_layer(t5().double().eval(), 0).hook_out.startswith("encoder.block.0")
    llava = hf.LlavaConfig(text_config=hf.LlamaConfig(**GROUPED), vision_config=hf.CLIPVisionConfig(**PICTURES))
    model = hf.LlavaForConditionalGeneration(llava).double().eval()
    assert mlp_layer(model, 0).hook_out == "model.language_model.layers.0.mlp"
    tower = "model.vision_tower.encoder.layers.0.mlp"
    with pytest.raises(LayerError, match=f"a run of the model does not pass {tower}"):
        layer_between(model, tower + ".input", tower)
    with pytest.raises(ValueError, match=f"a run of the model does not pass {tower}: choose hooks of the same forward"):
        rows_at(HuggingFaceHooks(model), {"model.language_model.layers.0.mlp", tower}, some_tokens(), None)


def test_the_shared_expert_and_the_router_have_layers_and_routed_experts_the_true_reason():
    _, model, x, y = family("qwen2 moe")
    shared = "model.layers.1.mlp.shared_expert"
    layer = layer_between(model, shared + ".input", shared)
    expert = model.get_submodule(shared)
    torch.testing.assert_close(layer(x), expert(x))
    assert checked_mlp_weights(layer, x) is not None
    with pytest.raises(LayerError, match="or a router's choice"):
        layer_between(model, "model.layers.1.mlp.experts.input", "model.layers.1.mlp.experts")
    torch.testing.assert_close(mlp_layer(model, 1)(x), y)


def test_a_model_in_training_mode_is_told_from_another_function():
    model = FAMILIES["bert"].model().train()
    with pytest.raises(LayerError, match=r"puts out something else every time that it is run, as with dropout\. Call"):
        layer_between(model, "bert.encoder.layer.1.intermediate.input", "bert.encoder.layer.1.output")


def test_weights_that_are_not_finite_are_not_taken_for_dropout():
    model = FAMILIES["bert"].model()
    with torch.no_grad():
        model.get_parameter("bert.encoder.layer.1.output.dense.weight")[0, 0] = float("nan")
    with pytest.raises(LayerError, match=r"carries NaN or Inf from bert\.encoder\.layer\.1\.intermediate\.input"):
        layer_between(model, "bert.encoder.layer.1.intermediate.input", "bert.encoder.layer.1.output.dense")


def test_attention_of_a_picture_is_no_layer():
    model = FAMILIES["vit"].model()
    model.set_attn_implementation("eager")  # pyright: ignore[reportCallIssue]  a PreTrainedModel's
    attention = next(name for name, _ in model.named_modules() if name.startswith("vit.layers.1.att"))
    with pytest.raises(LayerError, match="attention lies between them"):
        layer_between(model, attention + ".input", attention)


def test_rows_of_pictures_are_all_rows_and_tokens_are_refused():
    found, model, x, _ = family("vit")
    hooks = HuggingFaceHooks(model)
    name = found.first + ".input"
    torch.testing.assert_close(rows_at(hooks, {name}, pixels()["pixel_values"], None)[name], x)
    with pytest.raises(ValueError, match="reads pixel_values: pass those in the place of tokens"):
        rows_at(hooks, {found.first}, some_tokens(), None)
    with pytest.raises(ValueError, match=r"reads tokens: pass whole numbers \[batch, pos\]"):
        rows_at(HuggingFaceHooks(hugging_face("llama")), {"model.layers.1.mlp"}, some_numbers(6), None)
    with pytest.raises(ValueError, match="ViTForImageClassification reads pixel_values, no tokens"):
        _ = hooks.n_vocab


def test_rows_of_tokens_in_a_decoder_leave_out_what_is_excluded_and_those_of_sound_have_no_tokens():
    found, model, x, _ = family("whisper, decoder")
    ids, features = some_tokens(), sound()["input_features"]
    excluded = ids[0, :2]
    hooks, name = HuggingFaceHooks(model), found.first + ".input"
    torch.testing.assert_close(
        rows_at(hooks, {name}, ids, excluded)[name].shape, x[~torch.isin(ids, excluded).flatten()].shape
    )
    encoder = FAMILIES["whisper"].first + ".input"
    _, _, expected, _ = family("whisper")
    torch.testing.assert_close(rows_at(hooks, {encoder}, features, None)[encoder], expected)
    with pytest.raises(ValueError, match=r"carries \[2, 20, 16\] for tokens \[2, 6\], not one row a token"):
        rows_at(hooks, {encoder}, ids, None)


@pytest.mark.parametrize("name", ["bert", "bert, bare", "llama, bare", "gpt2, classifier", "t5", "vit", "whisper"])
def test_what_needs_logits_of_the_next_token_says_that_the_model_has_none(name):
    model = FAMILIES[name].model()
    hooks = HuggingFaceHooks(model)
    inputs = hooks.random_tokens()
    with pytest.raises(NoLogits, match="does not predict the next token, so that KL and cross-entropy are undefined"):
        hooks.run(inputs, {})
    hooks.visit(inputs, {})
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


POST_NORM = {"gemma2": "post_feedforward_layernorm", "olmo2": "post_feedforward_layernorm"}


@pytest.mark.parametrize("name", POST_NORM)
def test_an_mlp_with_the_norm_after_it_has_a_closed_form_and_one_with_the_norm_before_it_none(name):
    model, block = hugging_face(name).float(), "model.layers.1."  # these norms compute in float32
    layer = layer_between(model, block + "mlp.input", block + POST_NORM[name])
    x = rows_at(HuggingFaceHooks(model), {layer.hook_in}, some_tokens(), None)[layer.hook_in]
    weights = checked_mlp_weights(layer, x)
    assert isinstance(weights, NormedMlp)
    v = torch.randn_like(x)
    torch.testing.assert_close(weights.jacobian(x).jvp(v), layer_jvp(layer, x, v)[1], rtol=1e-4, atol=1e-5)
    if name == "gemma2":
        before = layer_between(model, block + "pre_feedforward_layernorm.input", block + "mlp")
        assert checked_mlp_weights(before, x) is None


def test_a_row_for_each_prompt_is_a_position_of_its_own():
    model = FAMILIES["bert, bare"].model()
    layer = layer_between(model, "pooler.dense.input", "pooler.activation")
    x = torch.randn(3, 16, dtype=torch.float64)
    torch.testing.assert_close(layer(x), torch.tanh(model.get_submodule("pooler.dense")(x)))
    with pytest.raises(ValueError, match=r"pooler carries \[2, 1, 16\] for tokens \[2, 6\], not one row a token"):
        rows_at(HuggingFaceHooks(model), {"pooler"}, some_tokens(), None)


def test_a_router_that_converts_its_weights_in_every_run_has_a_layer_and_keeps_its_weights():
    model = switch().eval()  # in single precision, as its router computes
    set_large(model)
    name = "encoder.block.1.layer.1.mlp"
    x, y = carried(model, name, name, text_pair())
    layer = mlp_layer(model, 1)
    assert layer.hook_out == name
    torch.testing.assert_close(layer(x), y)
    v = torch.randn_like(x)
    torch.testing.assert_close(layer_jvp(layer, x, v)[1], double_vjp(layer, x, v)[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(carried(model, name, name, text_pair())[1], y)
    assert not any("to" in vars(module) for module in model.modules())
