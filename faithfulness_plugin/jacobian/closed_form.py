"""The transcoder's directional derivatives J_t v and J_t^T u, with a graph, so that they can be trained on."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.jacobian.linear_region import LinearRegion, linear_region, region_of_activations
from faithfulness_plugin.layers.derivatives import forward_jvp, mismatch_explained, reverse_vjp


def transcoder_jvp(
    transcoder: nn.Module,
    x: Float[Tensor, "*batch d_in"],
    v: Float[Tensor, "*probes_batch d_in"],
    *,
    gate: Float[Tensor, "*batch d_sae"] | LinearRegion | None = None,
    gate_bandwidth: float | None = None,
) -> tuple[Float[Tensor, "*batch d_out"], Float[Tensor, "*probes_batch d_out"]]:
    """Compute the transcoder's output and its derivative along v, (t(x), J_t(x) v), with gradients to its parameters.

    Classes that `linear_region` knows (this package's and SAELens's inference transcoders) use the closed form
    J_t v = W_dec (1[active] * (W_enc v)) + W_skip v, with one gate for all probes; any other module goes through
    `torch.func.jvp`. The closed form is of the weights: hooks that edit activations change the gates and y, but are
    not differentiated themselves.

    Args:
        transcoder: the student, any nn.Module.
        x: [..., d_in].
        v: [..., d_in], or [n_probes, ..., d_in].
        gate: feature activations [..., d_sae] of a forward pass already made at x, or its `linear_region`; nothing is
            then encoded again. Only known classes take it.
        gate_bandwidth: as in `linear_region`; only known classes take it.

    Returns:
        y [..., d_out] and Jv [..., d_out], or [n_probes, ..., d_out] for several probes.

    Raises:
        ValueError: v does not fit x; a gate or a bandwidth for a module that has no closed form; a module that can be
            differentiated neither forward nor twice in reverse.
    """
    region = region_at(transcoder, x, gate, gate_bandwidth)
    if region is not None:
        return region.output(), region.jvp(v)
    with mismatch_explained(transcoder, x):
        return forward_jvp(transcoder, x, v)


def transcoder_vjp(
    transcoder: nn.Module,
    x: Float[Tensor, "*batch d_in"],
    u: Float[Tensor, "*probes_batch d_out"],
    *,
    gate: Float[Tensor, "*batch d_sae"] | LinearRegion | None = None,
    gate_bandwidth: float | None = None,
) -> tuple[Float[Tensor, "*batch d_out"], Float[Tensor, "*probes_batch d_in"]]:
    """Compute (t(x), J_t(x)^T u), as `transcoder_jvp`: in closed form W_enc^T (1[active] * (W_dec^T u)) + W_skip^T u.

    Args:
        u: [..., d_out], or [n_probes, ..., d_out].
    """
    region = region_at(transcoder, x, gate, gate_bandwidth)
    if region is not None:
        return region.output(), region.vjp(u)
    with mismatch_explained(transcoder, x):
        return reverse_vjp(transcoder, x, u)


def region_at(transcoder: nn.Module, x: Tensor, gate: Any, gate_bandwidth: float | None) -> LinearRegion | None:
    """Find the transcoder's `linear_region` at x, or None. Raises ValueError for an option that needs one."""
    if isinstance(gate, LinearRegion):
        return region_of_activations(gate, x, gate.weights, gate_bandwidth)
    region = linear_region(transcoder, x, gate=gate, gate_bandwidth=gate_bandwidth)
    if region is None and (gate is not None or gate_bandwidth is not None):
        option = "gate" if gate is not None else "gate_bandwidth"
        raise ValueError(f"{type(transcoder).__name__} has no closed form that takes a {option}: leave {option} out")
    return region
