"""Find the weights of a layer that is an MLP with one hidden layer, and check that they are all that it computes."""

from collections.abc import Callable
from functools import singledispatch
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.layers.comparison import random_signs, same_rows
from faithfulness_plugin.layers.derivatives import Layer, bare, layer_jvp
from faithfulness_plugin.layers.layer_weights import MlpWeights
from faithfulness_plugin.layers.normed_mlp import LayerWeights, NormedMlp

EPS_NAMES = ("eps", "variance_epsilon")


def checked_mlp_weights(layer: Layer, x: Float[Tensor, "rows d_in"]) -> LayerWeights | None:
    """Find the layer's weights by `mlp_weights`, and check that they give f(x) and J_f v on each of these rows.

    That shows a norm inside the layer before the MLP, an activation that is not elementwise, a row that is treated in a
    way of its own.

    Args:
        layer: f, row-wise.
        x: rows on which the layer is used.

    Returns:
        The weights; None where none are found, or where they are not all that the layer computes.
    """
    weights = mlp_weights(layer)
    if weights is None or weights.W_in.dtype != x.dtype or weights.W_in.shape[0] != x.shape[-1]:
        return None
    v = random_signs(x, x.shape, torch.Generator(x.device).manual_seed(0))
    y, Jv = layer_jvp(layer, x, v)
    with torch.no_grad():
        same = same_rows(weights.output(x), y) and same_rows(weights.jacobian(x).jvp(v), Jv)
    return weights if same else None


@singledispatch
def mlp_weights(layer: Layer) -> LayerWeights | None:
    """Find the weights of a layer that is an MLP with one hidden layer, unchecked.

    Recognised: nn.Sequential(Linear, activation, Linear), and modules with the weights' names of TransformerLens (W_in,
    W_out, act_fn, W_gate) or of Hugging Face (`HUGGING_FACE`: up_proj and down_proj with a gate_proj or without, fused
    gates, and other spellings), themselves or by their bound `forward`. A lambda is opaque. A class of your own joins
    with `mlp_weights.register`.

    Args:
        layer: a module, a bound method of one, or any other callable.

    Returns:
        The weights; None for whatever is not recognised.
    """
    module = getattr(layer, "__self__", None) or getattr(layer, "_orig_mod", layer)
    if isinstance(module, nn.Sequential):
        return _of_sequential(module)
    for read in (_of_transformer_lens, _of_hugging_face):
        try:
            return read(module)
        except AttributeError:
            continue
    return None


def _of_sequential(module: nn.Sequential) -> MlpWeights | None:
    parts = list(module)
    if len(parts) != 3 or not isinstance(parts[0], nn.Linear) or not isinstance(parts[2], nn.Linear):
        return None
    return MlpWeights(parts[0].weight.T, parts[2].weight.T, bare(parts[1]), parts[0].bias, parts[2].bias)


def _of_transformer_lens(module: Any) -> MlpWeights:
    b_in, b_out, W_gate = (getattr(module, name, None) for name in ("b_in", "b_out", "W_gate"))
    act = getattr(module, "act_fn", torch.relu)  # AbsNetwork has no other
    if W_gate is not None and b_in is not None:  # there it is added after the product with the gate
        b_in, b_out = None, b_in @ module.W_out if b_out is None else b_out + b_in @ module.W_out
    return MlpWeights(module.W_in, module.W_out, act, b_in, b_out, W_gate)


# the parts' names in Hugging Face's classes: up, down, and the gate where it is not called gate_proj
HUGGING_FACE = (
    ("up_proj", "down_proj", "gate_proj"),
    ("gate_up_proj", "down_proj", None),  # Phi-3, GLM: fused
    ("c_fc", "c_proj", None),  # GPT-2
    ("dense_h_to_4h", "dense_4h_to_h", None),  # GPT-NeoX, Falcon
    ("fc_in", "fc_out", None),  # GPT-J
    ("fc1", "fc2", None),  # Phi, OPT, ViT, CLIP
    ("wi_1", "wo", "wi_0"),  # T5, gated
    ("wi", "wo", None),  # T5
    ("w3", "w2", "w1"),  # LFM2
    ("Wi", "Wo", None),  # ModernBERT: fused
    ("input_linear", "output_linear", None),  # Granite's shared MLP: fused
    ("lin1", "lin2", None),  # DistilBERT
    ("intermediate_dense", "output_dense", None),  # wav2vec 2.0, HuBERT
)
ACTIVATIONS = ("act_fn", "act", "activation_fn", "activation", "intermediate_act_fn")


def _of_hugging_face(module: Any) -> MlpWeights | None:
    names = next((n for n in HUGGING_FACE if hasattr(module, n[0]) and hasattr(module, n[1])), None)
    if names is None:
        return None
    up, down, gate = names
    named = next((name for name in ACTIVATIONS if hasattr(module, name)), None)
    act = nn.functional.silu if named is None else getattr(module, named)  # LFM2 names none
    return _of_linears(getattr(module, up), act, getattr(module, down), getattr(module, gate, None) if gate else None)


def weights_of_pair(first: nn.Module, act: Callable[[Tensor], Tensor] | None, last: nn.Module) -> MlpWeights | None:
    """Read the weights of an MLP whose two linear layers are in two modules.

    They are fc1 and fc2 of OPT's blocks, with their activation; or a module of the first one and its activation (BERT's
    intermediate) and the second one.

    Args:
        first: the first linear layer, or the module that holds it with its activation.
        act: the activation, where `first` does not hold it.
        last: the second linear layer.

    Returns:
        The weights, unchecked; None where no linear layer or activation is found.
    """
    linear, last = bare_module(first), bare_module(last)
    if not hasattr(linear, "weight"):
        # ESM's gelu is a function that it does not name: a guess, which `checked_mlp_weights` sees through
        act = getattr(linear, "intermediate_act_fn", nn.functional.gelu)
        if not isinstance(linear := getattr(linear, "dense", None), nn.Module):
            return None
    return None if act is None else _of_linears(bare_module(linear), act, last, None)


def bare_module(module: nn.Module) -> nn.Module:
    """Return a module past what a TransformerBridge puts around it.

    Args:
        module: any module.

    Returns:
        The original one, or the module itself.
    """
    return getattr(module, "original_component", module)


def _of_linears(up: Any, act: Callable[[Tensor], Tensor], down: Any, gate: Any | None) -> MlpWeights:
    W_up, W_down, b_up = _matrix(up), _matrix(down), up.bias
    if gate is not None:
        return MlpWeights(W_up, W_down, act, b_up, down.bias, _matrix(gate), gate.bias)
    if W_up.shape[1] != 2 * len(W_down):
        return MlpWeights(W_up, W_down, act, b_up, down.bias)
    # fused: the gate's half first, in every class that is known here; where it is not, the check finds out
    (W_gate, W_in), (b_gate, b_in) = W_up.chunk(2, dim=1), (None, None) if b_up is None else b_up.chunk(2)
    return MlpWeights(W_in, W_down, act, b_in, down.bias, W_gate, b_gate)


def _matrix(linear: Any) -> Tensor:
    """Read the matrix as [d_in, d_out]. GPT-2's Conv1D (which has an `nf`) holds it so, nn.Linear transposed."""
    return linear.weight if hasattr(linear, "nf") else linear.weight.T


@torch.no_grad()
def normed_mlp(mlp: MlpWeights, norm: Callable[[Tensor], Tensor]) -> NormedMlp | None:
    """Join an MLP and the norm after it, where that is an RMSNorm or a LayerNorm with an `eps`.

    Scale and shift are read off what the norm makes of known rows, since classes differ in how they keep them: w,
    1 + w, or none.

    Args:
        mlp: the MLP's weights.
        norm: the norm, a module or a function of its output.

    Returns:
        Both as one layer. None for other norms, or a guess that `checked_mlp_weights` sees through.
    """
    eps, d = next((getattr(norm, name) for name in EPS_NAMES if hasattr(norm, name)), None), mlp.W_out.shape[1]
    if not isinstance(eps, float) or d < 2:
        return None
    call = getattr(norm, "forward", norm)
    # rows [1, d] of mean 0 without a 0, so that both kinds of norm treat them alike
    row = mlp.W_out.new_ones(1, d)
    row[0, 1::2] = -1
    if d % 2:
        row[0, -3:] = row.new_tensor([1, 1, -2])
    shift = call(torch.zeros_like(row))[0]
    scale = (call(row)[0] - shift) * (row.square().mean() + eps).sqrt() / row[0]
    level = call(torch.ones_like(row))[0] - shift  # 0 after a LayerNorm
    return NormedMlp(mlp, scale, shift, eps, centred=bool(level.norm() < 1e-3 * scale.norm()))
