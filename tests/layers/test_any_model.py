"""What holds of the layers of every kind of model, by the same functions."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from tiny_models import bridge, hooked, hugging_face, native_bridge, tokens
from torch import nn

from faithfulness_plugin import layer_jvp
from faithfulness_plugin.layers.any_model import hooks_of, layer_between, mlp_layer
from faithfulness_plugin.layers.check_layer import LayerError, check_layer

KINDS: dict[str, Callable[[], Any]] = {
    "hooked": hooked,
    "sae": lambda: hooked(sae=True),
    "bridge": lambda: bridge("llama"),
    "hugging face": lambda: hugging_face("llama"),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def logits(model: Any) -> torch.Tensor:
    return hooks_of(model).run(tokens(), {})


def test_what_is_no_model_is_refused(as_installed):
    for model in (nn.Linear(2, 2), "gpt2", hugging_face("llama").config):
        with pytest.raises(ValueError, match="is no model that is known here: pass a HookedTransformer"):
            hooks_of(model)  # pyright: ignore[reportArgumentType]
    hooks = hooks_of(hooked())
    assert hooks_of(hooks) is hooks


class Wrapped(nn.Module):
    """A model in a wrapper that passes its attributes on, as torch.compile's does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(super().__getattr__("model"), name) if name != "model" else super().__getattr__(name)


@pytest.mark.parametrize("make", [hooked, lambda: hugging_face("llama")])
def test_a_model_in_a_wrapper_has_the_hooks_of_the_model(make):
    model = make()
    assert type(hooks_of(Wrapped(model))) is type(hooks_of(model))


@every_kind
def test_the_layer_between_the_mlps_ends_is_the_mlp(kind):
    model = KINDS[kind]()
    mlp = mlp_layer(model, 1)
    layer = layer_between(model, mlp.hook_in, mlp.hook_out)
    x, v = torch.randn(2, 7, 16, dtype=torch.float64)
    torch.testing.assert_close(layer_jvp(layer, x, v), layer_jvp(mlp, x, v))


@every_kind
def test_a_layer_leaves_no_hooks_behind(kind):
    model = KINDS[kind]()
    expected = logits(model)  # the first run of a bridge places hooks of its own
    before = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    mlp = mlp_layer(model, 1)
    layer_between(model, mlp.hook_in, mlp.hook_out)(torch.randn(3, 16, dtype=torch.float64))
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == before
    torch.testing.assert_close(logits(model), expected)


@every_kind
def test_the_mlp_of_another_block_is_another_function(kind):
    model = KINDS[kind]()
    here, other = mlp_layer(model, 1), mlp_layer(model, 0)
    with pytest.raises(LayerError, match="another function stands there"):
        check_layer(hooks_of(model), other, here.hook_in, here.hook_out)


@pytest.mark.parametrize("block", [-1, 2])
@pytest.mark.parametrize("make", [hooked, native_bridge, lambda: hugging_face("gpt2")])
def test_a_block_that_is_not_there(make, block):
    with pytest.raises(ValueError, match=f"there is no block {block}: the model has blocks 0 to 1"):
        mlp_layer(make(), block)


@pytest.mark.parametrize("kind", ["hooked", "hugging face"])
def test_a_hook_that_changes_what_the_mlp_puts_out_is_noticed(kind):
    model = KINDS[kind]()
    if kind == "hooked":
        model.blocks[1].hook_mlp_out.add_hook(lambda y, hook: 2 * y, is_permanent=True)
    else:
        model.model.layers[1].mlp.register_forward_hook(lambda module, args, output: 2 * output)
    with pytest.raises(LayerError, match="the layer is not what the model computes"):
        mlp_layer(model, 1)


INSIDE = {"hooked": "blocks.1.mlp.hook_pre", "hugging face": "model.layers.1.mlp.act_fn"}


@pytest.mark.parametrize("kind", INSIDE)
def test_a_layer_called_by_a_hook_inside_itself_says_so(kind):
    model = KINDS[kind]()
    layer, x = mlp_layer(model, 1), torch.randn(3, 16, dtype=torch.float64)
    expected = layer(x)
    with pytest.raises(ValueError, match="called by a hook inside itself"):
        hooks_of(model).run(tokens(), {INSIDE[kind]: lambda _: layer(x)})
    torch.testing.assert_close(layer(x), expected)


@every_kind
def test_a_layer_can_be_called_by_hooks_at_its_ends(kind):
    model, seen = KINDS[kind](), []
    layer = mlp_layer(model, 1)
    x, v = torch.randn(2, 3, 16, dtype=torch.float64)
    expected = layer_jvp(layer, x, v)
    ends = {name: lambda _: seen.append(layer_jvp(layer, x, v)) for name in (layer.hook_in, layer.hook_out)}
    hooks_of(model).run(tokens(), ends)
    torch.testing.assert_close(seen, [expected, expected])


@pytest.mark.parametrize("kind", ["hooked", "bridge", "hugging face"])
def test_threads_that_use_the_layer_and_the_model_do_not_disturb_each_other(kind):
    model = KINDS[kind]()
    layer = mlp_layer(model, 1)
    x, v = torch.randn(2, 5, 16, dtype=torch.float64)
    expected, clean = layer_jvp(layer, x, v), logits(model)

    def use_layer() -> None:
        for _ in range(40):
            torch.testing.assert_close(layer_jvp(layer, x, v), expected)

    def use_model() -> None:
        for _ in range(20):
            output = model(tokens())
            torch.testing.assert_close(getattr(output, "logits", output), clean)

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(use_layer), pool.submit(use_layer), pool.submit(use_model)]:
            done.result()
