import copy
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import nine_families
import pytest
import torch
import transformers as hf
from fitted import fitted
from oracles import ARCHITECTURES
from sae_lens import SAE
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from tiny_models import D_MODEL, GPT, bridge, carried, hooked, hugging_face, sae_bridge, set_large, tokens
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

from faithfulness_plugin.adapters.huggingface.hooks import HuggingFaceHooks
from faithfulness_plugin.adapters.transformer_lens import attach
from faithfulness_plugin.transcoders.skip import attachable

MODELS = {
    "hooked": (lambda: hooked(sae=True), "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"),
    "hooked, from the norm": (lambda: hooked(sae=True), "blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"),
    "bridge": (lambda: sae_bridge("llama"), "blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out"),
    "bridge, from the norm": (lambda: sae_bridge("gpt2"), "blocks.1.ln2.hook_out", "blocks.1.mlp.hook_out"),
}


@pytest.fixture(params=MODELS)
def model_and_hooks(request) -> tuple[Any, str, str]:
    make, hook_in, hook_out = MODELS[request.param]
    return make(), hook_in, hook_out


def at(make_transcoder: Any, hook_in: str, hook_out: str, architecture: str = "standard", **fields: Any) -> Any:
    transcoder = make_transcoder(architecture, d_in=D_MODEL, d_out=D_MODEL, d_sae=24, **fields)
    transcoder.cfg.metadata.hook_name, transcoder.cfg.metadata.hook_name_out = hook_in, hook_out
    return transcoder


def patched_by_hand(model: Any, transcoder: Any, hook_in: str, hook_out: str) -> Tensor:
    """The logits with t(x) put in at `hook_out`, of the weights."""
    seen: list[Tensor] = []

    def put_in(tensor: Tensor, hook: Any) -> Tensor:
        (x,) = seen
        y = transcoder.encode(x) @ transcoder.W_dec + transcoder.b_dec
        return y if getattr(transcoder, "W_skip", None) is None else y + x @ transcoder.W_skip.T

    fwd_hooks = [(hook_in, lambda x, hook: seen.append(x)), (hook_out, put_in)]
    return model.run_with_hooks(tokens(), fwd_hooks=fwd_hooks)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_attached_transcoder_takes_the_layers_place(
    as_installed, make_transcoder, tmp_path, model_and_hooks, architecture, exported, skip
):
    model, *hooks = model_and_hooks
    transcoder = at(make_transcoder, *hooks, architecture=architecture, skip=skip)
    if exported:
        transcoder.eval().save_inference_model(tmp_path)
        transcoder = SAE.load_from_disk(tmp_path)
    own, expected = model(tokens()), patched_by_hand(model, transcoder, *hooks)
    assert (own - expected).abs().max() > 1e-3
    attached = attach(model, transcoder)
    assert (attached is transcoder) == (attachable(transcoder) is transcoder)
    assert list(model.acts_to_saes.values()) == [attached]
    torch.testing.assert_close(model(tokens()), expected)
    model.reset_saes()
    torch.testing.assert_close(model(tokens()), own)
    attach(model, transcoder, use_error_term=True)
    torch.testing.assert_close(model(tokens()), own)


@pytest.mark.parametrize("architecture", ["standard", "jumprelu"])
def test_saelens_drops_the_skip_connection_of_a_stock_transcoder_until_it_is_attachable(
    make_transcoder, tmp_path, model_and_hooks, architecture
):
    model, *hooks = model_and_hooks
    at(make_transcoder, *hooks, architecture=architecture, skip=True).save_inference_model(tmp_path)
    transcoder = SAE.load_from_disk(tmp_path)
    expected = patched_by_hand(model, transcoder, *hooks)
    model.add_sae(transcoder)
    assert (model(tokens()) - expected).abs().max() > 1e-3
    model.reset_saes()
    model.add_sae(attachable(transcoder))
    torch.testing.assert_close(model(tokens()), expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_our_classes_are_right_with_saelenss_own_calls(make_transcoder, model_and_hooks, architecture):
    model, *hooks = model_and_hooks
    transcoder = at(make_transcoder, *hooks, architecture=architecture, skip=True)
    own, expected = model(tokens()), patched_by_hand(model, transcoder, *hooks)
    torch.testing.assert_close(model.run_with_saes(tokens(), saes=[transcoder]), expected)
    torch.testing.assert_close(model.run_with_saes(tokens(), saes=[transcoder], use_error_term=True), own)
    logits, cache = model.run_with_cache_with_saes(tokens(), saes=[transcoder])
    torch.testing.assert_close(logits, expected)
    (acts,) = [value for name, value in cache.items() if name.endswith("hook_sae_acts_post")]
    assert acts.shape == (2, 6, 24)
    torch.testing.assert_close(model(tokens()), own)


@pytest.mark.parametrize("exported", [False, True])
def test_an_intervention_on_a_feature_is_not_masked_by_the_error_term(
    make_transcoder, tmp_path, model_and_hooks, exported
):
    model, *hooks = model_and_hooks
    transcoder = at(make_transcoder, *hooks, skip=True)
    transcoder.save_inference_model(tmp_path)
    transcoder = SAE.load_from_disk(tmp_path) if exported else transcoder
    addition = 3 * transcoder.W_dec[5]
    expected = model.run_with_hooks(tokens(), fwd_hooks=[(hooks[1], lambda y, hook: y + addition)])
    attached = attach(model, transcoder, use_error_term=True)

    def steer(acts: Tensor, hook: Any) -> Tensor:
        return acts + 3 * (torch.arange(24) == 5)

    cast(Any, attached).hook_sae_acts_post.add_hook(steer)
    torch.testing.assert_close(model(tokens()), expected)


def test_another_transcoder_can_take_its_place(make_transcoder, model_and_hooks):
    model, *hooks = model_and_hooks
    first, second = (at(make_transcoder, *hooks, skip=True) for _ in range(2))
    expected = patched_by_hand(model, second, *hooks)
    attach(model, first)
    attach(model, second)
    torch.testing.assert_close(model(tokens()), expected)


def test_a_bridges_other_names_of_its_hooks_are_as_good(make_transcoder):
    model = sae_bridge("llama")
    transcoder = at(make_transcoder, "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out", skip=True)
    expected = patched_by_hand(model, transcoder, "blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out")
    attach(model, transcoder)
    torch.testing.assert_close(model(tokens()), expected)


def test_two_blocks_at_once(make_transcoder, model_and_hooks):
    model, *hooks = model_and_hooks
    earlier = [name.replace("blocks.1", "blocks.0") for name in hooks]
    one, two = at(make_transcoder, *earlier, skip=True), at(make_transcoder, *hooks, skip=True)
    attach(model, one)
    expected = patched_by_hand(model, two, *hooks)
    attach(model, two)
    torch.testing.assert_close(model(tokens()), expected)


@pytest.mark.parametrize("missing", ["hook_name", "hook_name_out"])
def test_metadata_that_name_no_hooks(make_transcoder, missing):
    transcoder = at(make_transcoder, *MODELS["hooked"][1:])
    setattr(transcoder.cfg.metadata, missing, None)
    with pytest.raises(ValueError, match=r"set cfg\.metadata\.hook_name and hook_name_out"):
        attach(hooked(sae=True), transcoder)


def test_hooks_that_the_model_has_not(make_transcoder, model_and_hooks):
    model, hook_in, hook_out = model_and_hooks
    for names in ((hook_in + "put", hook_out), (hook_in, hook_out + "put")):
        with pytest.raises(ValueError, match=r"the model has no hook .*put: did you mean"):
            attach(model, at(make_transcoder, *names))
    assert model.acts_to_saes == {}


def test_the_activations_of_a_run_are_let_go(make_transcoder, model_and_hooks):
    model, *hooks = model_and_hooks
    transcoder = at(make_transcoder, *hooks, skip=True)
    refs: list[weakref.ref[Tensor]] = []
    attach(model, transcoder)

    def watch(tensor: Tensor, hook: Any) -> None:
        refs.append(weakref.ref(tensor))

    transcoder.hook_sae_input.add_hook(watch)
    transcoder.hook_sae_acts_post.add_hook(watch)
    model(tokens())
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


def test_a_copy_of_an_attached_transcoder_attaches(make_transcoder, tmp_path, model_and_hooks):
    model, *hooks = model_and_hooks
    at(make_transcoder, *hooks, skip=True).save_inference_model(tmp_path)
    attached = attach(model, SAE.load_from_disk(tmp_path))
    expected = model(tokens())
    copied = copy.deepcopy(attached)
    with torch.no_grad():
        cast(Any, attached).W_skip.zero_()
    model.reset_saes()
    attach(model, copied)
    torch.testing.assert_close(model(tokens()), expected)


def test_models_in_threads_share_a_transcoder(make_transcoder):
    make, *hooks = MODELS["hooked"]
    models = [make(), make()]
    transcoder = at(make_transcoder, *hooks, skip=True)
    expected = [patched_by_hand(model, transcoder, *hooks) for model in models]
    for model in models:
        attach(model, transcoder)

    def many(which: int) -> None:
        for _ in range(15):
            torch.testing.assert_close(models[which](tokens()), expected[which])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(many, range(2)))


def test_a_bridge_says_that_it_cannot_leave_tokens_to_the_layer(make_transcoder):
    model = sae_bridge("llama")
    transcoder = at(make_transcoder, "blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out")
    transcoder.cfg.metadata.exclude_special_tokens = True
    with pytest.warns(UserWarning, match="cannot leave special tokens to the layer"):
        attach(model, transcoder)
    attach(model, transcoder, exclude_special_tokens=False)


def test_a_model_that_takes_no_transcoders_says_which_one_does(make_transcoder):
    for model in (hooked(), hugging_face("llama")):
        with pytest.raises(ValueError, match="takes no transcoders: load the model as sae_lens's HookedSAETransformer"):
            attach(model, at(make_transcoder, *MODELS["bridge"][1:]))


def test_a_plain_bridge_takes_transcoders_from_then_on(make_transcoder):
    """What `load_model` and the examples' `model_and_prompts` return."""
    hooks = MODELS["bridge"][1:]
    model, theirs, transcoder = bridge("llama"), sae_bridge("llama"), at(make_transcoder, *hooks)
    theirs.load_state_dict(model.state_dict())
    attach(theirs, transcoder)
    own = model(tokens())
    with pytest.raises(ValueError, match="no_such_hook"):
        attach(model, at(make_transcoder, "no_such_hook", hooks[1]))
    assert type(model) is TransformerBridge
    attach(model, transcoder)
    torch.testing.assert_close(model(tokens()), theirs(tokens()))
    model.reset_saes()
    torch.testing.assert_close(model(tokens()), own)


def granite() -> Any:
    model = nine_families.bridge("granite")
    model.__class__ = SAETransformerBridge
    model._acts_to_saes, model._transcoder_output_hooks = {}, {}
    return model


def test_a_transcoder_that_would_never_run_is_refused_and_the_model_is_as_it_was(make_transcoder):
    model, name = granite(), "blocks.1.hook_mlp_out"  # fires inside a wrapper that keeps the hook point itself
    own = model(tokens())
    zeros = [(name, lambda y, hook: torch.zeros_like(y))]
    edited = model.run_with_hooks(tokens(), fwd_hooks=zeros)
    with pytest.raises(ValueError, match=r"does not pass what stands in the place of blocks.1.hook_mlp_out"):
        attach(model, at(make_transcoder, "blocks.1.mlp.hook_in", name))
    assert model.acts_to_saes == {}
    torch.testing.assert_close(model(tokens()), own)
    torch.testing.assert_close(model.run_with_hooks(tokens(), fwd_hooks=zeros), edited)
    assert not torch.allclose(own, edited)
    attach(model, at(make_transcoder, "blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out"))
    assert not torch.allclose(model(tokens()), own)


def bridge_of(model: Any) -> Any:
    """A SAETransformerBridge around a Hugging Face model."""
    set_large(model.double().eval())
    bridge = build_bridge_from_module(model, type(model).__name__, hf_config=model.config)
    bridge.__class__ = SAETransformerBridge
    bridge._acts_to_saes, bridge._transcoder_output_hooks = {}, {}
    return bridge


def test_opts_mlp_whose_rows_are_flattened_is_refused_and_not_attached_where_no_run_passes(make_transcoder):
    """Its mlp.hook_in and mlp.hook_out are hook points that no run passes: a transcoder there changed nothing."""
    model, plain = nine_families.bridge("opt"), HuggingFaceHooks(nine_families.plain("opt"))
    model.__class__ = SAETransformerBridge
    model._acts_to_saes, model._transcoder_output_hooks = {}, {}
    with torch.no_grad():
        clean = model(tokens())
    for hooks in (("mlp.hook_in", "mlp.hook_out"), ("mlp.hook_in", "hook_mlp_out"), ("hook_resid_mid", "hook_mlp_out")):
        with pytest.raises(ValueError, match=r"the model does not run \(.*\): nothing was attached"):
            attach(model, at(make_transcoder, *(f"blocks.1.{hook}" for hook in hooks)))
        with torch.no_grad():
            torch.testing.assert_close(model(tokens()), clean)
    names, x = ("blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"), torch.randn(200, D_MODEL, dtype=torch.float64)
    transcoder, seen = fitted(x, x.roll(1, 0), hook_name=names[0], hook_name_out=names[1]), list[Tensor]()
    with torch.no_grad():
        expected = plain.run(tokens(), {names[0]: seen.append, names[1]: lambda _: transcoder(seen[0])})
        attach(model, transcoder)
        torch.testing.assert_close(model(tokens()), expected)


def test_the_entry_of_an_mlp_that_shares_its_norm_with_attention(make_transcoder):
    model = bridge_of(hf.GPTJForCausalLM(hf.GPTJConfig(rotary_dim=4, **GPT)))
    transcoder = at(make_transcoder, "blocks.1.hook_mlp_in", "blocks.1.hook_mlp_out")
    expected = patched_by_hand(model, transcoder, "blocks.1.hook_in", "blocks.1.mlp.hook_out")
    attach(model, transcoder)
    torch.testing.assert_close(model(tokens()), expected)


def test_what_is_written_before_it_is_read_is_refused_and_what_stood_there_stays(make_transcoder):
    model, hook_in, hook_out = sae_bridge("llama"), "blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out"
    first = attach(model, at(make_transcoder, hook_in, hook_out))
    own = model(tokens())
    with pytest.raises(ValueError, match=r"passes blocks.0.mlp.hook_out before blocks.1.mlp.hook_in"):
        attach(model, at(make_transcoder, hook_in, "blocks.0.mlp.hook_out"))
    assert list(model.acts_to_saes.values()) == [first]
    torch.testing.assert_close(model(tokens()), own)


def test_it_stands_where_hugging_faces_names_say(make_transcoder):
    names = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
    theirs = [f"model.layers.1.{name}.output" for name in names]
    model = sae_bridge("gemma2")
    transcoder = at(make_transcoder, "blocks.1.hook_mlp_in", "blocks.1.hook_mlp_out")
    transcoder.cfg.metadata.hf_hook_name, transcoder.cfg.metadata.hf_hook_name_out = theirs
    own = model(tokens())
    expected = patched_by_hand(model, transcoder, "blocks.1.ln2.hook_out", "blocks.1.ln2_post.hook_out")
    attached = attach(model, transcoder)
    assert attached.cfg.metadata.hook_name == "blocks.1.ln2.hook_out"
    torch.testing.assert_close(model(tokens()), expected)
    model.reset_saes()
    torch.testing.assert_close(model(tokens()), own)


def test_a_transcoder_of_other_tensors_is_warned_of():
    model, hooks = sae_bridge("llama"), ("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    prompts = torch.randint(50, (40, 16), generator=torch.Generator().manual_seed(1))
    x, y = (seen.flatten(0, 1) for seen in carried(model, hooks, prompts).values())
    attach(copy.deepcopy(model), fitted(x, y, hook_name=hooks[0], hook_name_out=hooks[1]))  # which warns of nothing
    with pytest.warns(UserWarning, match=r"--hook-in blocks.1.mlp.hook_in --hook-out blocks.1"):
        attach(model, fitted(x, y, hook_name="blocks.1.hook_resid_mid", hook_name_out=hooks[1]))


def test_a_hugging_face_name_on_a_hooked_transformer(make_transcoder):
    model = hooked(sae=True)
    transcoder = at(make_transcoder, "transformer.h.1.ln_2.output", "transformer.h.1.mlp")
    expected = patched_by_hand(model, transcoder, "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    attach(model, transcoder)
    torch.testing.assert_close(model(tokens()), expected)
