"""What a layer computes in terms of its weights, where it is an MLP with one hidden layer, gated or not."""

from collections.abc import Callable
from functools import singledispatch
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.jacobian.probes import rademacher
from faithfulness_plugin.layers.derivatives import Layer, bare, forward_jvp, layer_jvp
from faithfulness_plugin.layers.layer_weights import LayerWeights
from faithfulness_plugin.layers.rank_one import RankOneSum


class MlpWeights(NamedTuple):
    """y = act(x W_in + b_in) W_out + b_out, or gated (SwiGLU, GEGLU): y = (act(x W_gate + b_gate) * (x W_in + b_in))
    W_out + b_out. Absent biases are None."""

    W_in: Float[Tensor, "d_in d_mlp"]
    W_out: Float[Tensor, "d_mlp d_out"]
    act: Callable[[Tensor], Tensor]
    """Elementwise."""
    b_in: Float[Tensor, " d_mlp"] | None = None
    b_out: Float[Tensor, " d_out"] | None = None
    W_gate: Float[Tensor, "d_in d_mlp"] | None = None
    b_gate: Float[Tensor, " d_mlp"] | None = None

    def output(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """f(x)."""
        linear = _affine(x, self.W_in, self.b_in)
        hidden = self.act(linear) if self.W_gate is None else self.act(_affine(x, self.W_gate, self.b_gate)) * linear
        return _affine(hidden, self.W_out, self.b_out)

    @torch.no_grad()
    def jacobian(self, x: Float[Tensor, "rows d_in"]) -> RankOneSum:
        """J_f at each row, as a sum of d_mlp rank-one terms, or of 2 d_mlp where gated:
        sum_m act'(z_m) W_out[m] (x) W_in[:, m], or with g the gate's input and z the other's
        sum_m act'(g_m) z_m W_out[m] (x) W_gate[:, m] + act(g_m) W_out[m] (x) W_in[:, m]."""
        linear = _affine(x, self.W_in, self.b_in)
        gate = linear if self.W_gate is None else _affine(x, self.W_gate, self.b_gate)
        act, slope = forward_jvp(self.act, gate, torch.ones_like(gate))
        if self.W_gate is None:
            return RankOneSum(slope, self.W_in, self.W_out)
        weights = torch.cat([slope * linear, act], dim=-1)
        return RankOneSum(weights, torch.cat([self.W_gate, self.W_in], dim=1), torch.cat([self.W_out, self.W_out]))


def checked_mlp_weights(layer: Layer, x: Float[Tensor, "rows d_in"]) -> LayerWeights | None:
    """The layer's weights, if `mlp_weights` finds any and they give f(x) and J_f v on each of these rows; else None.

    A norm inside the layer before the MLP, an activation that is not elementwise, a row that is treated in a way of its
    own: all of that shows there."""
    weights = mlp_weights(layer)
    if weights is None or weights.W_in.dtype != x.dtype or weights.W_in.shape[0] != x.shape[-1]:
        return None
    v = rademacher(x, 1, torch.Generator(x.device).manual_seed(0))[0]
    y, Jv = layer_jvp(layer, x, v)
    with torch.no_grad():
        same = same_rows(weights.output(x), y) and same_rows(weights.jacobian(x).jvp(v), Jv)
    return weights if same else None


@singledispatch
def mlp_weights(layer: Any) -> LayerWeights | None:
    """The weights of a layer that is an MLP with one hidden layer, or None.

    Recognised: nn.Sequential(Linear, activation, Linear), and modules with the weights' names of TransformerLens (W_in,
    W_out, act_fn, W_gate) or of Hugging Face (`HUGGING_FACE`: up_proj and down_proj with a gate_proj or without, fused
    gates, and other spellings), themselves or by their bound `forward`. A lambda is opaque. A class of your own joins
    with `mlp_weights.register`.
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


def weights_of_pair(first: Any, act: Callable[[Tensor], Tensor] | None, last: Any) -> MlpWeights | None:
    """The weights of an MLP whose two linear layers are in two modules: fc1 and fc2 of OPT's blocks, with their
    activation; or a module of the first one and its activation (BERT's intermediate) and the second one."""
    first, last = bare_module(first), bare_module(last)
    if not hasattr(first, "weight"):
        # ESM's gelu is a function that it does not name: a guess, which `checked_mlp_weights` sees through
        act, first = getattr(first, "intermediate_act_fn", nn.functional.gelu), getattr(first, "dense", None)
    return None if first is None or act is None else _of_linears(bare_module(first), act, last, None)


def bare_module(module: Any) -> Any:
    """A module past what a TransformerBridge puts around it."""
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
    """[d_in, d_out]. GPT-2's Conv1D (which has an `nf`) holds it so, nn.Linear transposed."""
    return linear.weight if hasattr(linear, "nf") else linear.weight.T


def _affine(x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
    return x @ W if b is None else x @ W + b


def same_rows(ours: Float[Tensor, "*batch d"], theirs: Tensor) -> bool:
    """Whether they are equal row by row, up to rounding: half of the digits of the row, or of a typical one where that
    is larger. (Not of the rms: one row of a language model can be a thousand times the others.)"""
    if ours.shape != theirs.shape or not theirs.dtype.is_floating_point:
        return False
    eps, ours, theirs = torch.finfo(theirs.dtype).eps, ours.double(), theirs.double()
    errors, norms = (ours - theirs).norm(dim=-1), theirs.norm(dim=-1)
    size = norms.maximum(norms.median()) if norms.numel() else norms
    size = torch.where(size > 0, size, norms.square().mean().sqrt())
    return bool((errors <= eps**0.5 * size).all())
