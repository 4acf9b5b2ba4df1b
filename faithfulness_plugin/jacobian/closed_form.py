"""The transcoder's directional derivatives J_t v and J_t^T u, with a graph, so that they can be trained on."""

from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.jacobian.dense_region import require_trained_gates
from faithfulness_plugin.jacobian.linear_region import LinearRegion, linear_region
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
        x: where it is differentiated.
        v: one probe for each row, of x's shape, or several, with n_probes in front.
        gate: feature activations [..., d_sae] of a forward pass already made at x, or its `linear_region`; nothing is
            then encoded again. Only known classes take it.
        gate_bandwidth: as in `linear_region`; only known classes take it.

    Returns:
        y [..., d_out] and Jv [..., d_out], or [n_probes, ..., d_out] for several probes.

    Raises:
        ValueError: v does not fit x; a gate or a bandwidth for a module that has no closed form; a module that can be
            differentiated neither forward nor twice in reverse.

    Example:
        >>> import torch
        >>> from faithfulness_plugin import StandardTrainingTranscoder, StandardTrainingTranscoderConfig
        >>> _ = torch.manual_seed(0)
        >>> config = StandardTrainingTranscoderConfig(d_in=3, d_sae=8, d_out=2, dtype="float64")
        >>> transcoder = StandardTrainingTranscoder(config)
        >>> x, v = torch.randn(2, 3, dtype=torch.float64)
        >>> y, Jv = transcoder_jvp(transcoder, x, v)
        >>> torch.testing.assert_close(y, transcoder(x))
        >>> torch.testing.assert_close(Jv, torch.func.jacrev(transcoder)(x) @ v)
    """
    region = region_at(transcoder, x, gate, gate_bandwidth)
    if region is not None:
        # encoded once, for y and for all probes
        return region.output(), region.jvp(v)  # [..., d_out] each, or n_probes of the latter
    with mismatch_explained(transcoder, x):
        return forward_jvp(transcoder, x, v)  # with a graph: torch.func.jvp is differentiable


def transcoder_vjp(
    transcoder: nn.Module,
    x: Float[Tensor, "*batch d_in"],
    u: Float[Tensor, "*probes_batch d_out"],
    *,
    gate: Float[Tensor, "*batch d_sae"] | LinearRegion | None = None,
    gate_bandwidth: float | None = None,
) -> tuple[Float[Tensor, "*batch d_out"], Float[Tensor, "*probes_batch d_in"]]:
    """Compute the transcoder's output and its transposed product, (t(x), J_t(x)^T u), with gradients to its parameters.

    Known classes use the closed form J_t^T u = W_enc^T (1[active] * (W_dec^T u)) + W_skip^T u (see `transcoder_jvp`).

    Args:
        transcoder: the student, any nn.Module.
        x: where it is differentiated.
        u: one direction of the output for each row, or several, with n_probes in front.
        gate: as in `transcoder_jvp`.
        gate_bandwidth: as in `transcoder_jvp`.

    Returns:
        y [..., d_out] and J^T u [..., d_in], or [n_probes, ..., d_in] for several directions.

    Raises:
        ValueError: as `transcoder_jvp`, with u against the output.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> module = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).double()
        >>> x, u = torch.randn(3, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
        >>> _, JTu = transcoder_vjp(module, x, u)
        >>> torch.testing.assert_close(JTu, torch.func.jacrev(module)(x).T @ u)
    """
    region = region_at(transcoder, x, gate, gate_bandwidth)
    if region is not None:
        return region.output(), region.vjp(u)  # [..., d_out] and [..., d_in]
    with mismatch_explained(transcoder, x):
        return reverse_vjp(transcoder, x, u)  # with a graph: create_graph is on where gradients are


def region_at(
    transcoder: nn.Module, x: Tensor, gate: Tensor | LinearRegion | None, gate_bandwidth: float | None
) -> LinearRegion | None:
    """Find the transcoder's `linear_region` at x, and refuse options that need one where there is none.

    Args:
        transcoder: the student.
        x: the rows, [..., d_in].
        gate: activations at x, a region made before, or None to encode x.
        gate_bandwidth: the width of straight-through gates; None for constant ones.

    Returns:
        The region; None for a module that is differentiated by autograd.

    Raises:
        ValueError: a gate or a bandwidth for a module without a region.
    """
    if isinstance(gate, LinearRegion):
        require_trained_gates(gate, gate_bandwidth)  # it has its weights: those of many layers are one large matrix
        return gate
    # a class without a region gives None, whatever the options
    region = linear_region(transcoder, x, gate=gate, gate_bandwidth=gate_bandwidth)
    if region is None and (gate is not None or gate_bandwidth is not None):
        option = "gate" if gate is not None else "gate_bandwidth"
        raise ValueError(f"{type(transcoder).__name__} has no closed form that takes a {option}: leave {option} out")
    return region
