import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from families import FAMILIES
from oracles import central_difference
from tiny_models import HUGGING_FACE, NO_MLP_WEIGHTS, bridge, hooked, native_bridge, tokens
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

from faithfulness_plugin import layer_jvp
from faithfulness_plugin.adapters.transformer_lens.hooks import TransformerLensHooks
from faithfulness_plugin.layers.any_model import layer_between, mlp_layer
from faithfulness_plugin.layers.check_layer import LayerError, check_layer
from faithfulness_plugin.layers.derivatives import double_vjp
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import NoLogits
from faithfulness_plugin.layers.layer_weights import MlpWeights
from faithfulness_plugin.layers.mlp_weights import checked_mlp_weights
from faithfulness_plugin.layers.normed_mlp import NormedMlp

NORMS = ("LN", "LNPre", "RMS", "RMSPre", None)
OLMO2 = {"original_architecture": "Olmo2ForCausalLM"}
PRE_NORM: list[dict[str, Any]] = [{}, {"gated_mlp": True}, {"parallel_attn_mlp": True}, {"use_hook_mlp_in": True}]
POST_NORM = [(norm, OLMO2) for norm in ("LN", "LNPre", "RMS", "RMSPre")] + [
    (norm, {"use_normalization_before_and_after": True, **more})
    for norm in ("RMS", "RMSPre")
    for more in ({}, {"gated_mlp": True})
]
IN, OUT = "blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"


def agrees_with(model: Any, layer: HookedLayer) -> torch.Tensor:
    """f(x) is what the model carries; its derivative is the finite difference's. Returns the rows."""
    _, cache = model.run_with_cache(tokens())
    x = cache[layer.hook_in].detach()
    torch.testing.assert_close(layer(x), cache[layer.hook_out].detach(), rtol=1e-9, atol=1e-10)
    rows = x.flatten(0, 1)
    v = torch.randn_like(rows)
    torch.testing.assert_close(layer_jvp(layer, rows, v)[1], central_difference(layer, rows, v), rtol=1e-5, atol=1e-6)
    return rows


def weights_agree(layer: HookedLayer, rows: torch.Tensor) -> None:
    weights = checked_mlp_weights(layer, rows)
    assert weights is not None
    other = 3 * torch.randn_like(rows)
    torch.testing.assert_close(weights.output(other), layer(other))
    v = torch.randn_like(rows)
    torch.testing.assert_close(weights.jacobian(rows).jvp(v), layer_jvp(layer, rows, v)[1])


@pytest.mark.parametrize("sae", [False, True])
@pytest.mark.parametrize("options", PRE_NORM, ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_the_mlp_of_a_hooked_transformer(norm, options, sae):
    model = hooked(norm, sae=sae, **options)
    layer = mlp_layer(model, 1)
    weights_agree(layer, agrees_with(model, layer))


@pytest.mark.parametrize("sae", [False, True])
@pytest.mark.parametrize(("norm", "options"), POST_NORM, ids=str)
def test_a_norm_after_the_mlp_belongs_to_the_layer_and_to_its_closed_form(norm, options, sae):
    model = hooked(norm, sae=sae, **options)
    layer = mlp_layer(model, 1)
    assert isinstance(layer.weights(), NormedMlp)
    weights_agree(layer, agrees_with(model, layer))


@pytest.mark.parametrize("sae", [False, True])
def test_a_post_norm_architecture_without_norms_is_a_plain_mlp(sae):
    model = hooked(None, sae=sae, **OLMO2)
    layer = mlp_layer(model, 1)
    weights_agree(layer, agrees_with(model, layer))


@pytest.mark.parametrize("sae", [False, True])
@pytest.mark.parametrize(("norm", "options"), [("LN", {}), ("RMS", {}), ("RMS", {"gated_mlp": True})], ids=str)
def test_folding_the_norm_keeps_the_function_of_the_folded_model(norm, options, sae):
    model = hooked(norm, sae=sae, **options)
    before, _ = model.run_with_cache(tokens())
    model.process_weights_(fold_ln=True, center_writing_weights=norm == "LN")
    torch.testing.assert_close(model(tokens()).softmax(-1), before.softmax(-1))
    layer = mlp_layer(model, 1)
    weights_agree(layer, agrees_with(model, layer))


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_the_mlp_of_a_bridge(name):
    model = bridge(name)
    layer = mlp_layer(model, 1)
    assert (layer.hook_in, layer.hook_out) == ("blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out")
    if name in NO_MLP_WEIGHTS:  # routed in float32
        _, cache = model.run_with_cache(tokens())
        x = cache[layer.hook_in].detach()
        torch.testing.assert_close(layer(x), cache[layer.hook_out].detach())
        torch.testing.assert_close(layer_jvp(layer, x, x), double_vjp(layer, x, x), rtol=1e-5, atol=1e-6)
        assert checked_mlp_weights(layer, x.flatten(0, 1)) is None
    else:
        weights_agree(layer, agrees_with(model, layer))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_the_mlp_of_a_native_bridge(norm, gated):
    model = native_bridge(norm, gated_mlp=gated)
    agrees_with(model, mlp_layer(model, 1))


def test_the_mlp_of_a_bridge_with_processed_weights():
    model = bridge("gpt2")
    model.enable_compatibility_mode(disable_warnings=True)
    agrees_with(model, mlp_layer(model, 1))


@pytest.mark.parametrize("block", [0, 1])
def test_the_weights_of_a_normed_input_include_the_norms_scale(block):
    model = hooked("LN", gated_mlp=True)
    layer, norm = mlp_layer(model, block), model.blocks[block].ln2
    weights = layer.weights()
    assert isinstance(weights, MlpWeights)
    assert weights.W_gate is not None
    torch.testing.assert_close(weights.W_gate, norm.w[:, None] * model.blocks[block].mlp.W_gate)
    torch.testing.assert_close(weights.b_gate, norm.b @ model.blocks[block].mlp.W_gate)


@pytest.mark.parametrize("shape", [(16,), (5, 16), (2, 3, 4, 16), (0, 16)])
def test_any_leading_dimensions_are_rows(shape):
    layer = mlp_layer(hooked(), 1)
    x = torch.randn(shape, dtype=torch.float64)
    expected = torch.stack([layer(row) for row in x.reshape(-1, 16)]) if x.numel() else x
    torch.testing.assert_close(layer(x), expected.reshape(shape))


@pytest.mark.parametrize("norm", ["LN", "RMSPre"])
def test_from_the_residual_stream_the_norm_is_a_part_of_the_layer(norm):
    model = hooked(norm)
    layer, block = layer_between(model, "blocks.1.hook_resid_mid", OUT), model.blocks[1]
    x = agrees_with(model, layer)
    torch.testing.assert_close(layer(x), block.mlp(block.ln2(x[None]))[0])


def test_the_residual_stream_can_be_a_part_of_the_layer():
    model = hooked()
    layer, block = layer_between(model, "blocks.1.hook_resid_mid", "blocks.1.hook_resid_post"), model.blocks[1]
    x = agrees_with(model, layer)
    torch.testing.assert_close(layer(x), x + block.mlp(block.ln2(x[None]))[0])


@pytest.mark.parametrize(
    ("hook_in", "hook_out"), [("blocks.1.ln2.hook_normalised", OUT), (IN, "blocks.1.hook_mlpout"), ("nonsense!", OUT)]
)
def test_an_unknown_hook_is_named_with_the_nearest(hook_in, hook_out):
    wrong = hook_out if hook_in == IN else hook_in
    hint = "see the model's hook names" if wrong == "nonsense!" else f"did you mean {IN if wrong == hook_in else OUT}"
    with pytest.raises(ValueError, match=f"the model has no hook {wrong}: {hint}"):
        layer_between(hooked(), hook_in, hook_out)


BETWEEN = {
    "attention lies between them": ("blocks.1.hook_resid_pre", OUT),
    "blocks.1.hook_resid_pre is passed before blocks.1.hook_mlp_out": (OUT, "blocks.1.hook_resid_pre"),
    "the residual stream passes by": (IN, "blocks.1.hook_resid_post"),
    "a run of the model does not pass blocks.1.hook_attn_in": (IN, "blocks.1.hook_attn_in"),
}


@pytest.mark.parametrize("message", BETWEEN)
def test_hooks_without_a_layer_between_them(message):
    with pytest.raises(LayerError, match=message):
        layer_between(hooked(), *BETWEEN[message])


def test_hooks_that_have_nothing_to_do_with_each_other():
    model = hooked(parallel_attn_mlp=True)
    with pytest.raises(LayerError, match=r"does not depend on blocks\.1\.hook_attn_out at all"):
        layer_between(model, "blocks.1.hook_attn_out", OUT)


@pytest.mark.parametrize("norm", ["LN", "RMS"])
def test_the_bare_mlp_at_the_normalized_hook_lacks_the_norms_scale(norm):
    model = hooked(norm)
    with pytest.raises(LayerError, match=f"the norm's scale is applied after {IN}"):
        check_layer(TransformerLensHooks(model), model.blocks[1].mlp, IN, OUT)
    w, b = model.blocks[1].ln2.w, getattr(model.blocks[1].ln2, "b", 0)  # the message's advice
    check_layer(TransformerLensHooks(model), lambda x: model.blocks[1].mlp((x * w + b)[None])[0], IN, OUT)


@pytest.mark.parametrize(
    ("options", "norm"), [(OLMO2, "ln2"), ({"use_normalization_before_and_after": True}, "ln2_post")]
)
def test_a_norm_that_was_left_out_is_named(options, norm):
    model = hooked("RMS", sae=True, **options)
    with pytest.raises(LayerError, match=rf"applies a norm \({norm}\) between the layer and {OUT}"):
        check_layer(TransformerLensHooks(model), model.blocks[1].mlp, "blocks.1.mlp.hook_in", OUT)


def test_a_layer_of_another_width_is_another_function():
    model = hooked(sae=True)
    with pytest.raises(LayerError, match=r"this one fails on its rows \(RuntimeError"):
        check_layer(TransformerLensHooks(model), torch.nn.Linear(3, 3), "blocks.1.mlp.hook_in", OUT)


def test_a_right_value_with_a_wrong_derivative_does_not_pass():
    model = hooked(sae=True)
    layer = mlp_layer(model, 1)
    with pytest.raises(LayerError, match="another function"):
        check_layer(TransformerLensHooks(model), lambda x: layer(x.detach()) + 0 * x, layer.hook_in, layer.hook_out)


@pytest.mark.parametrize("make", [hooked, native_bridge])
def test_a_model_without_mlps(make):
    with pytest.raises(ValueError, match="block 1 has no MLP"):
        mlp_layer(make(attn_only=True), 1)


def test_a_run_in_another_thread_does_not_see_the_hooks_of_a_layer_between_two_hooks():
    model, seen = hooked(), []
    layer, expected = layer_between(model, "blocks.1.hook_resid_mid", OUT), model(tokens())

    def meanwhile(activation: torch.Tensor, hook: Any) -> None:
        if not seen:
            seen.append(None)
            with ThreadPoolExecutor(1) as pool:
                seen.append(pool.submit(model, tokens()).result())

    model.blocks[0].hook_mlp_out.add_hook(meanwhile, is_permanent=True)
    layer(torch.randn(3, 16, dtype=torch.float64))
    torch.testing.assert_close(seen[1], expected)


@pytest.mark.parametrize("sae", [False, True])
@pytest.mark.parametrize("norm", ["LN", "RMSPre"])
def test_the_mlp_of_a_model_in_half_precision(norm, sae):
    model = hooked(norm, sae=sae, dtype=torch.bfloat16)
    layer = mlp_layer(model, 1)
    _, cache = model.run_with_cache(tokens())
    there = cache[layer.hook_out]
    # small outputs are differences of large terms, each with 8 binary digits
    torch.testing.assert_close(layer(cache[layer.hook_in]), there, rtol=0.016, atol=0.016 * there.abs().max().item())


def test_a_copy_has_a_clock_of_its_own():
    layer = mlp_layer(hooked(), 1)
    copied, before = layer.copy(), layer.seconds
    x = torch.randn(3, 16, dtype=torch.float64)
    torch.testing.assert_close(copied(x), layer(x))
    assert layer.seconds > before
    spent = layer.seconds
    copied(x)
    assert layer.seconds == spent
    assert copied.weights() is not None


def test_it_says_between_which_hooks_it_stands():
    assert repr(mlp_layer(hooked(), 1)) == f"HookedLayer({IN} -> {OUT})"


PARTS = {
    "opt": (1, "blocks.1.mlp.in.hook_in", "blocks.1.mlp.out.hook_out"),
    "bert": (1, "blocks.1.mlp.in.hook_in", "blocks.1.mlp.out.hook_out"),
    "nemotron h": (2, "blocks.2.mixer.hook_in", "blocks.2.mixer.hook_out"),
    "phi3": (1, "blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out"),
    "jamba": (1, "blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out"),
    "lfm2": (0, "blocks.0.mlp.hook_in", "blocks.0.mlp.hook_out"),
}


def bridge_of(family: str) -> Any:
    model = FAMILIES[family].model()
    return build_bridge_from_module(model, type(model).__name__, hf_config=model.config)


@pytest.mark.parametrize("family", PARTS)
def test_the_mlp_of_a_bridge_to_a_family_whose_blocks_differ_or_have_it_in_parts(family):
    block, *ends = PARTS[family]
    model = bridge_of(family)
    layer = mlp_layer(model, block)
    assert [layer.hook_in, layer.hook_out] == ends
    weights_agree(layer, agrees_with(model, layer))


def test_the_mlp_in_parts_of_a_bridge_in_compatibility_mode():
    model = bridge_of("opt")
    before, _ = model.run_with_cache(tokens())
    model.enable_compatibility_mode(no_processing=False)
    torch.testing.assert_close(model(tokens()).softmax(-1), before.softmax(-1))
    agrees_with(model, mlp_layer(model, 1))


NO_BRIDGED_LAYER = {
    "block 0 has no MLP (it is a NemotronHBlock of NemotronHMamba2Mixer): choose block 2": ("nemotron h", 0),
    "the bridge has no hooks at mlp_block, the MLP of this block: use mlp_layer of": ("recurrent gemma", 0),
    "the model has no list called blocks, but encoder_blocks and decoder_blocks: use mlp_layer of": ("t5", 0),
}


@pytest.mark.parametrize("message", NO_BRIDGED_LAYER)
def test_a_bridge_without_an_mlp_there_says_why(message):
    family, block = NO_BRIDGED_LAYER[message]
    with pytest.raises(ValueError, match=re.escape(message)):
        mlp_layer(bridge_of(family), block)


def test_a_bridge_that_fills_masks_does_not_predict_the_next_token():
    hooks, seen = TransformerLensHooks(bridge_of("bert")), []
    with pytest.raises(NoLogits, match="does not predict the next token"):
        hooks.run(tokens(), {})
    hooks.visit(tokens(), {"blocks.1.mlp.in.hook_in": seen.append})
    assert seen[0].shape == (*tokens().shape, 16)
