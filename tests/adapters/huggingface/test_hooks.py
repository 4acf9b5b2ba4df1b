from types import SimpleNamespace
from typing import Any

import pytest
import torch
from oracles import central_difference, random_transcoder
from tiny_models import HUGGING_FACE, N_VOCAB, NO_MLP_WEIGHTS, hugging_face, tokens
from torch import Tensor, nn

from faithfulness_plugin import layer_jvp
from faithfulness_plugin.adapters.huggingface.hooks import HuggingFaceHooks
from faithfulness_plugin.layers.any_model import layer_between, mlp_layer
from faithfulness_plugin.layers.check_layer import LayerError
from faithfulness_plugin.layers.derivatives import double_vjp
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.mlp_weights import checked_mlp_weights
from faithfulness_plugin.layers.spliced import run_spliced
from faithfulness_plugin.store.fill import rows_at

MLP = "model.layers.1.mlp"


def carried(model: nn.Module, layer: HookedLayer) -> tuple[Tensor, Tensor]:
    """What the model carries at the layer's ends, by hooks of torch's own."""
    seen: list[Tensor] = []
    given = model.get_submodule(layer.hook_in.removesuffix(".input"))
    returned = model.get_submodule(layer.hook_out)

    def keep(tensor: Any) -> None:
        seen.append((tensor[0] if isinstance(tensor, tuple) else tensor).detach())

    handles = [
        given.register_forward_pre_hook(lambda module, args: keep(args[0])),
        returned.register_forward_hook(lambda module, args, output: keep(output)),
    ]
    model(tokens())
    for handle in handles:
        handle.remove()
    return seen[0], seen[1]


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_the_mlp_of_a_model(name):
    model = hugging_face(name)
    layer = mlp_layer(model, 1)
    assert layer.hook_in == layer.hook_out + ".input"
    x, y = carried(model, layer)
    torch.testing.assert_close(layer(x), y)
    rows = x.flatten(0, 1)
    v = torch.randn_like(rows)
    found, weights = layer_jvp(layer, rows, v)[1], checked_mlp_weights(layer, rows)
    torch.testing.assert_close(found, double_vjp(layer, rows, v)[1], rtol=1e-5, atol=1e-6)
    if name in NO_MLP_WEIGHTS:  # routed in float32, too coarse for differences
        assert weights is None
        return
    torch.testing.assert_close(found, central_difference(layer, rows, v), rtol=1e-5, atol=1e-6)
    assert weights is not None
    torch.testing.assert_close(weights.output(3 * v), layer(3 * v))
    torch.testing.assert_close(weights.jacobian(rows).jvp(v), found)


def test_a_single_precision_model_is_right_up_to_rounding():
    model = hugging_face("llama").float()
    layer = mlp_layer(model, 0)
    x, y = carried(model, layer)
    torch.testing.assert_close(layer(x), y)
    assert checked_mlp_weights(layer, x.flatten(0, 1)) is not None


def test_from_the_norms_input_on_the_norm_is_a_part_of_the_layer():
    model = hugging_face("gpt2")
    block = model.transformer.h[1]
    layer = layer_between(model, "transformer.h.1.ln_2.input", "transformer.h.1.mlp")
    x, y = carried(model, layer)
    torch.testing.assert_close(layer(x), y)
    torch.testing.assert_close(layer(x), block.mlp(block.ln_2(x)))
    rows = x.flatten(0, 1)
    v = torch.randn_like(rows)
    torch.testing.assert_close(layer_jvp(layer, rows, v)[1], central_difference(layer, rows, v), rtol=1e-5, atol=1e-6)


def test_the_output_of_a_module_is_a_hook_as_well():
    model = hugging_face("llama")
    block = model.model.layers[1]
    layer = layer_between(model, "model.layers.1.mlp.gate_proj", "model.layers.1.mlp.act_fn")
    x = torch.randn(4, 32, dtype=torch.float64)
    torch.testing.assert_close(layer(x), block.mlp.act_fn(x))


ERRORS = {
    "attention lies between them": ("model.layers.1.input_layernorm.input", MLP),
    "model.layers.1.input_layernorm is passed before": (MLP, "model.layers.1.input_layernorm"),
    "the residual stream passes by": (MLP + ".input", "model.layers.1"),
    "does not depend on model.layers.1.mlp.gate_proj at all": (MLP + ".gate_proj", MLP + ".up_proj"),
    "the model has no hook model.layers.1.mpl: did you mean model.layers.1.mlp": ("model.layers.1.mpl", MLP),
    "the model has no hook model.layers.1.mlp.inputs: did you mean": (MLP + ".inputs", MLP),
}


@pytest.mark.parametrize("message", ERRORS)
def test_hooks_without_a_layer_between_them(message):
    model = hugging_face("llama")
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match=message):
        layer_between(model, *ERRORS[message])


def test_fused_attention_between_the_hooks_is_named():
    with pytest.raises(LayerError, match="stands fused attention, as it seems"):
        layer_between(hugging_face("llama"), "model.layers.1.input_layernorm.input", MLP)


def test_a_module_that_is_used_twice_is_no_one_layer():
    model = hugging_face("llama")
    model.model.layers[1].mlp = model.model.layers[0].mlp
    with pytest.raises(LayerError, match=r"model\.layers\.0\.mlp\.input is passed 2 times before lm_head"):
        layer_between(model, "model.layers.0.mlp.input", "lm_head")


def test_a_model_whose_mlps_have_other_names():
    with pytest.raises(ValueError, match="no block of Sequential has an MLP, neither by its name"):
        mlp_layer(HuggingFaceHooks(nn.Sequential(nn.Linear(2, 2))), 0)


class Flattened(nn.Module):
    """A model whose MLP is given [batch * pos, d], as OPT's are."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.embed, self.head, self.flat = nn.Embedding(N_VOCAB, 4), nn.Linear(4, N_VOCAB), flat
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=N_VOCAB))

    def forward(self, tokens: Tensor, use_cache: bool = False) -> SimpleNamespace:
        x = self.embed(tokens)
        y = self.mlp(x.reshape(-1, 4)).reshape(x.shape) if self.flat else self.mlp(x)
        return SimpleNamespace(logits=self.head(x + y))


def flattened() -> tuple[Flattened, Flattened]:
    """The same model, which flattens, and which does not."""
    flat, usual = Flattened(flat=True).double().eval(), Flattened(flat=False).double().eval()
    usual.load_state_dict(flat.state_dict())
    return flat, usual


def test_rows_of_a_flattened_batch_are_those_of_the_unflattened_one():
    flat, usual = flattened()
    names, excluded = {"mlp.input", "mlp", "mlp.0"}, torch.tensor([7, 11])
    found, expected = (rows_at(HuggingFaceHooks(model), names, tokens(), excluded) for model in (flat, usual))
    for name in names:
        torch.testing.assert_close(found[name], expected[name])
    layers = [layer_between(model, "mlp.input", "mlp") for model in (flat, usual)]
    rows, v = torch.randn(2, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(layer_jvp(layers[0], rows, v), layer_jvp(layers[1], rows, v))
    torch.testing.assert_close(layers[0](rows), flat.mlp(rows))


def test_what_a_hook_writes_to_a_flattened_batch_stands_at_its_position():
    flat, usual = flattened()

    def doubled_at_2(x: Tensor) -> Tensor:
        assert x.shape == (*tokens().shape, 4)
        return torch.cat([x[:, :2], 2 * x[:, 2:3], x[:, 3:]], dim=1)

    logits = [HuggingFaceHooks(model).run(tokens(), {"mlp.input": doubled_at_2}) for model in (flat, usual)]
    torch.testing.assert_close(*logits)


def test_a_transcoder_is_spliced_in_where_rows_are_flattened():
    logits = []
    transcoder = random_transcoder("topk", d_in=4, d_out=4).double()
    for model in flattened():
        layer = layer_between(model, "mlp.input", "mlp")
        kept = tokens() != tokens()[0, 0]
        logits.append(run_spliced(HuggingFaceHooks(model), layer, tokens(), kept, transcoder).logits)
    torch.testing.assert_close(*logits)


def test_a_module_that_is_given_some_of_the_rows_only_is_refused_with_that_reason():
    class Routed(Flattened):
        def forward(self, tokens: Tensor, use_cache: bool = False) -> SimpleNamespace:
            x = self.embed(tokens)
            y = torch.zeros_like(x)
            y[tokens % 3 == 0] = self.mlp(x[tokens % 3 == 0])
            return SimpleNamespace(logits=self.head(x + y))

    with pytest.raises(LayerError, match=r"mlp\.input carries \d+ rows for 16 tokens, only those that are routed"):
        layer_between(Routed(flat=False).double(), "mlp.input", "mlp")


def test_a_module_that_is_given_its_input_by_name_has_hooks():
    model, rows = hugging_face("llama"), []
    hooks = HuggingFaceHooks(model)
    expected = hooks.run(tokens(), {})
    hooks.run(tokens(), {"model.layers.1.self_attn.input": rows.append, "model.layers.1.input_layernorm": rows.append})
    torch.testing.assert_close(rows[0], rows[1])
    changed = hooks.run(tokens(), {"model.layers.1.self_attn.input": lambda x: 2 * x})
    torch.testing.assert_close(changed, hooks.run(tokens(), {"model.layers.1.input_layernorm": lambda x: 2 * x}))
    assert not torch.allclose(changed, expected)


@pytest.mark.parametrize("name", ["llama", "gpt2", "neox"])
def test_the_embeddings_of_tokens_have_a_name(name):
    model, seen = hugging_face(name), list[Tensor]()
    HuggingFaceHooks(model).run(tokens(), {"hook_embed": seen.append})
    torch.testing.assert_close(seen[0], model.get_input_embeddings()(tokens()))
