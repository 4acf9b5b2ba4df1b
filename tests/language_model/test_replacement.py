"""Models whose layers transcoders replace, on every kind of tiny model in float64, against a slow twin."""

from collections.abc import Collection
from typing import Any

import pytest
import tiny_models
import torch
from torch import Tensor

from faithfulness_plugin import (
    StandardTrainingTranscoder,
    StandardTrainingTranscoderConfig,
    TopKTrainingTranscoder,
    TopKTrainingTranscoderConfig,
)
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.language_model.replacement import ReplacementModel
from faithfulness_plugin.layers.any_model import hooks_of, mlp_layer
from faithfulness_plugin.layers.spliced import Site, run_replaced, run_spliced, stages_after, stages_replaced
from faithfulness_plugin.store.left_out import LeftOut

D = tiny_models.D_MODEL
MODELS: dict[str, Any] = {
    "bridge": lambda: tiny_models.bridge("llama"),
    "bridge, parallel": lambda: tiny_models.bridge("neox"),
    "hooked": tiny_models.hooked,
    "hooked, parallel": lambda: tiny_models.hooked(parallel_attn_mlp=True),
    "hugging face": lambda: tiny_models.hugging_face("llama"),
    "hugging face, parallel": lambda: tiny_models.hugging_face("neox"),
    "hugging face, norm after": lambda: tiny_models.hugging_face("gemma2"),
}
PLAIN = {
    "hugging face": "model.layers",
    "hugging face, parallel": "gpt_neox.layers",
}


def transcoder(seed: int, skip: bool = False) -> Any:
    torch.manual_seed(seed)
    made = TopKTrainingTranscoder(
        TopKTrainingTranscoderConfig(d_in=D, d_out=D, d_sae=24, k=4, skip=skip, dtype="float64")
    ).eval()
    with torch.no_grad():
        made.b_dec.normal_(std=0.3)
        if skip:
            made.W_skip.normal_(std=0.1)
    return made


def tokens() -> Tensor:
    found = torch.randint(1, tiny_models.N_VOCAB, (3, 7), generator=torch.Generator().manual_seed(5))
    found[:, 0] = 0
    return found


def replaced(name: str) -> tuple[Any, ReplacementModel]:
    model = MODELS[name]()
    hooks = hooks_of(model)
    layers = {block: mlp_layer(hooks, block) for block in (0, 1)}
    transcoders = {1: transcoder(1, skip=True), 0: transcoder(0)}
    return model, ReplacementModel(hooks, layers, transcoders, exclude=torch.tensor([0]))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("blocks", [None, [0], [1], []])
def test_with_error_nodes_the_logits_are_the_models(name, blocks):
    _, model = replaced(name)
    clean = model.hooks.run(tokens(), {})
    with torch.no_grad():
        seen = model.run(tokens(), blocks, errors=True)
        torch.testing.assert_close(seen.logits, clean, rtol=1e-4, atol=1e-4)
        without = model.run(tokens(), blocks).logits
    assert ((without - clean).abs().max() > 0.01) == (blocks != [])


def by_hand(model: Any, path: str, transcoders: dict[int, Any], prompts: Tensor, blocks: Collection[int]) -> Tensor:
    """The slow twin: the MLPs themselves are exchanged, and give the first token back."""
    at = model.get_submodule(path)
    own = [block.mlp.forward for block in at]
    for block in blocks:

        def forward(x: Tensor, block: int = block) -> Tensor:
            out = transcoders[block](x)
            return torch.cat([own[block](x)[:, :1], out[:, 1:]], dim=1)

        at[block].mlp.forward = forward
    try:
        return model(prompts).logits
    finally:
        for block, forward in zip(at, own, strict=True):
            block.mlp.forward = forward


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("blocks", [[0, 1], [0], [1]])
@torch.no_grad()
def test_replaced_layers_compute_what_exchanged_modules_do(name, blocks):
    plain, model = replaced(name)
    right = by_hand(plain, PLAIN[name], model.transcoders, tokens(), blocks)
    torch.testing.assert_close(model.run(tokens(), blocks).logits, right, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_bridge_and_plain_model_of_the_same_weights_agree():
    torch.manual_seed(0)
    plain = tiny_models.hugging_face("neox")
    torch.manual_seed(0)
    bridge = tiny_models.bridge("neox")
    logits = []
    for of in (plain, bridge):
        layers = {block: mlp_layer(of, block) for block in (0, 1)}
        made = ReplacementModel(hooks_of(of), layers, {0: transcoder(0), 1: transcoder(1)})
        logits.append(made.run(tokens()).logits)
    torch.testing.assert_close(*logits, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_one_replaced_layer_is_the_spliced_model():
    _, model = replaced("bridge")
    for block in (0, 1):
        kept = model.kept(tokens())[block]
        assert kept.tolist() == (tokens() != 0).tolist()
        spliced = run_spliced(model.hooks, model.layers[block], tokens(), kept, model.transcoders[block])
        torch.testing.assert_close(model.run(tokens(), [block]).logits, spliced.logits)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_run_that_ends_at_the_last_stage_sees_what_a_whole_one_sees(name):
    _, model = replaced(name)
    stages = stages_after(model.hooks, model.layers[0])
    sites = model.sites(tokens())
    whole = run_replaced(model.hooks, tokens(), sites, stages=stages).stages
    ended = stages_replaced(model.hooks, tokens(), sites, stages)
    assert list(ended) == list(whole) == stages
    for stage in stages:
        torch.testing.assert_close(ended[stage], whole[stage])


@torch.no_grad()
def test_with_error_nodes_a_change_moves_the_model_as_the_transcoders_do():
    _, model = replaced("bridge")
    step = torch.randn(D, dtype=torch.float64)
    sites = model.sites(tokens(), errors=True)
    x = tiny_models.carried(model.hooks, [model.layers[1].hook_in], tokens())[model.layers[1].hook_in]
    changed = [sites[0], Site(**{**vars(sites[1]), "of_input": lambda a: a + step})]
    (stage,) = stages_after(model.hooks, model.layers[1])
    moved = stages_replaced(model.hooks, tokens(), changed, [stage])[stage]
    stood = stages_replaced(model.hooks, tokens(), sites, [stage])[stage]
    t = model.transcoders[1]
    torch.testing.assert_close((moved - stood)[:, 1:], (t(x + step) - t(x))[:, 1:], rtol=1e-6, atol=1e-6)


@pytest.mark.exact("which rows count, True or False")
def test_norms_are_asked_layer_by_layer():
    _, model = replaced("bridge")
    model.exclude = LeftOut((), 1, 1.2)
    kept = model.kept(tokens())
    assert not torch.equal(kept[0], kept[1])
    for block, site in zip((0, 1), model.sites(tokens()), strict=True):
        assert torch.equal(site.kept, kept[block])
    clean = model.hooks.run(tokens(), {})
    torch.testing.assert_close(model.run(tokens(), errors=True).logits, clean, rtol=1e-4, atol=1e-4)


def test_files_say_which_layers_they_replace():
    model = tiny_models.bridge("llama")
    made = [transcoder(seed) for seed in (0, 1)]
    for of, block in zip(made, (1, 0), strict=True):
        of.cfg.metadata.hook_name = f"blocks.{block}.mlp.hook_in"
    found = ReplacementModel.of(hooks_of(model), made)
    assert list(found.transcoders) == [0, 1]
    assert found.transcoders[1] is made[0]
    assert repr(found).startswith("ReplacementModel(blocks=[0, 1]")


def test_what_does_not_fit_is_refused_in_a_line():
    _, model = replaced("bridge")
    nameless = transcoder(0)
    elsewhere, twice = transcoder(1), transcoder(1)
    for of, block in ((elsewhere, 7), (twice, 7)):
        of.cfg.metadata.hook_name = f"blocks.{block}.mlp.hook_in"
    wide = StandardTrainingTranscoder(StandardTrainingTranscoderConfig(d_in=8, d_sae=24)).eval()
    cases = [
        (lambda: model.run(tokens(), [0, 3, 4]), "blocks 3-4: the set has transcoders of blocks 0-1"),
        (lambda: ReplacementModel.of(model.hooks, [nameless]), "transcoder 0 does not say which layer it replaces"),
        (lambda: ReplacementModel.of(model.hooks, [elsewhere]), r"the transcoder says blocks.7.mlp.hook_in"),
        (lambda: ReplacementModel.of(model.hooks, [elsewhere, twice]), "are both of block 7"),
        (lambda: ReplacementModel(model.hooks, {}, model.transcoders), "no layer for the transcoder of blocks 0-1"),
        (lambda: ReplacementModel(model.hooks, model.layers, {1: wide}), "transcoder of block 1 maps 8 to 8"),
        (lambda: model.run(torch.zeros(1, 99, dtype=torch.long)), "prompts of 99 tokens do not fit"),
    ]
    for refused, match in cases:
        with pytest.raises(UsageError, match=match) as error:
            refused()
        assert "\n" not in str(error.value)
