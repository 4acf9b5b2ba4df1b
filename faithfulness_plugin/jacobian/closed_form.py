"""The transcoder's directional derivative J_t(x) v, with a graph, so that it can be trained on."""

from functools import singledispatch

from jaxtyping import Bool, Float
from torch import Tensor, nn

from faithfulness_plugin.layer import forward_jvp


@singledispatch
def transcoder_jvp(
    transcoder: nn.Module,
    x: Float[Tensor, "*batch d_in"],
    v: Float[Tensor, "*probes_batch d_in"],
    *,
    gate: Float[Tensor, "*batch d_sae"] | None = None,
) -> tuple[Float[Tensor, "*batch d_out"], Float[Tensor, "*probes_batch d_out"]]:
    """The transcoder's output and its derivative along v, (t(x), J_t(x) v), with gradients to its parameters.

    Known classes use the closed form of `gated_jvp`; any other module goes through `torch.func.jvp`. A class
    of your own joins with `transcoder_jvp.register(MyTranscoder, my_function)`. The closed form is of the weights:
    hooks that edit activations change the gate and y, but are not differentiated themselves.

    Args:
        transcoder: the student, any nn.Module.
        x: [..., d_in].
        v: [..., d_in], or [n_probes, ..., d_in].
        gate: feature activations [..., d_sae] of a forward pass already made at x; known classes then encode
            nothing again. Only they take it.

    Returns:
        y [..., d_out] and Jv [..., d_out], or [n_probes, ..., d_out] for several probes.

    Raises:
        ValueError: v does not fit x, or a gate for a module that has no closed form.
    """
    if gate is not None:
        raise ValueError(f"{type(transcoder).__name__} has no closed form that takes a gate: leave gate out")
    return forward_jvp(transcoder, x, v)


def gated_jvp(
    v: Float[Tensor, "*probes_batch d_in"],
    active: Bool[Tensor, "*batch d_sae"],
    W_enc: Float[Tensor, "d_in d_sae"],
    W_dec: Float[Tensor, "d_sae d_out"],
) -> Float[Tensor, "*probes_batch d_out"]:
    """J_t v = (1[active] * (v W_enc)) W_dec.

    Exact wherever an activation passes its pre-activation through on the active features and is 0 elsewhere:
    ReLU, and TopK or JumpReLU with the gate held fixed. The gradient goes to W_enc and W_dec; to b_enc and
    thresholds it is exactly zero, for they act through the gate alone.
    """
    return ((v @ W_enc) * active) @ W_dec
