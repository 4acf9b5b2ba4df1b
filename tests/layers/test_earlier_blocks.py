"""Runs that begin at a block, and logits of the last positions: as whole runs, with less work."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import D_MODEL, HUGGING_FACE, N_VOCAB, bridge, hooked, hugging_face, native_bridge, tokens
from torch import Tensor

from faithfulness_plugin.layers.any_model import hooks_of, layer_between, mlp_layer
from faithfulness_plugin.layers.derivatives import layer_jvp

MODELS: dict[str, Callable[[], Any]] = {
    "hooked": hooked,
    "native bridge": native_bridge,
    "bridge": lambda: bridge("llama"),
    **{name: lambda name=name: hugging_face(name) for name in HUGGING_FACE},
}


@pytest.fixture(params=MODELS)
def model(request) -> Any:
    return MODELS[request.param]()


class Calls:
    """Counts how often a model computes the MLP of a block."""

    def __init__(self, model: Any, block: int) -> None:
        self.n = 0
        of_block = re.compile(rf".*\b{block}\.(_original_component\.)?(mlp|block_sparse_moe)")
        mlp = next(module for name, module in model.named_modules() if of_block.fullmatch(name))
        mlp.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, *_: Any) -> None:
        self.n += 1

    def of(self, run: Callable[[], object]) -> int:
        before = self.n
        run()
        return self.n - before


@pytest.mark.bitwise("the same products of the same shapes in one process")
@torch.no_grad()
def test_runs_that_begin_at_a_block_are_whole_ones_without_the_blocks_before(model):
    hooks, layer, other = hooks_of(model), mlp_layer(model, 1), torch.flip(tokens(), (1,))

    def changed(prompts: Tensor) -> Tensor:
        return hooks.run(prompts, {layer.hook_out: lambda y: 2 * y})

    whole, whole_other = changed(tokens()), changed(other)
    first, second = Calls(model, 0), Calls(model, 1)
    with hooks.beginning_at(layer.hook_in):
        for prompts, right in ((tokens(), whole), (other, whole_other)):
            assert first.of(lambda prompts=prompts: hooks.run(prompts, {})) == 1
            seen = []
            assert first.of(lambda prompts=prompts, seen=seen: seen.append(changed(prompts))) == 0
            assert torch.equal(seen[0], right)
            assert second.of(lambda prompts=prompts: hooks.visit(prompts, {layer.hook_in: lambda x: None})) == 1
        early = mlp_layer(model, 0).hook_out
        assert first.of(lambda: hooks.run(tokens(), {early: lambda y: 0 * y})) == 1  # hooks there see the run
    assert first.of(lambda: changed(tokens())) == 1
    assert torch.equal(changed(tokens()), whole)


@torch.no_grad()
def test_a_model_whose_blocks_pass_on_more_than_their_output_is_run_as_a_whole():
    model = hugging_face("llama")
    passed: list[Tensor] = []
    first, second = model.model.layers
    first.mlp.register_forward_hook(lambda module, args, y: passed.append(y))
    second.mlp.register_forward_hook(lambda module, args, y: y + passed.pop())
    hooks, calls = hooks_of(model), Calls(model, 0)
    whole = hooks.run(tokens(), {})
    with hooks.beginning_at("model.layers.1.mlp"):
        for _ in range(2):
            assert calls.of(lambda: torch.testing.assert_close(hooks.run(tokens(), {}), whole)) == 1


@torch.no_grad()
def test_layers_that_run_the_model_have_their_derivatives_within():
    hooks = hooks_of(hugging_face("llama"))
    layer, x = layer_between(hooks, "model.layers.1.mlp.input", "model.layers.1.mlp"), torch.randn(3, D_MODEL).double()
    right = layer_jvp(layer, x, x)
    with hooks.beginning_at(layer.hook_in):
        for _ in range(2):
            torch.testing.assert_close(layer_jvp(layer, x, x), right)


@torch.no_grad()
def test_at_the_first_block_there_is_nothing_to_pass_over():
    model = hugging_face("llama")
    hooks, calls = hooks_of(model), Calls(model, 0)
    with hooks.beginning_at("model.layers.0.mlp"):
        assert [calls.of(lambda: hooks.run(tokens(), {})) for _ in range(2)] == [1, 1]


@torch.no_grad()
def test_logits_of_the_last_positions_are_those_of_all_and_others_are_not_computed(model):
    hooks = hooks_of(model)
    whole, made = hooks.run(tokens(), {}), []
    of_vocab = [m for m in model.modules() if getattr(getattr(m, "weight", None), "shape", [0])[0] == N_VOCAB]
    unembedding = model.unembed if hasattr(model, "unembed") else of_vocab[-1]
    unembedding.register_forward_hook(lambda module, args, logits: made.append(logits.shape))
    last = hooks.run(tokens(), {}, last=2)
    torch.testing.assert_close(last, whole[:, -2:])
    assert made == [(2, 2, N_VOCAB)]
    assert hooks.run(tokens(), {}).shape == whole.shape
