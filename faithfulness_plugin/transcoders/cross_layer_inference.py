"""Finished cross-layer transcoders, whose decoders stay in their files until they are asked for."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from faithfulness_plugin.jacobian.dense_region import DenseRegion, region_of_activations
from faithfulness_plugin.jacobian.linear_region import LinearRegion, Weights, linear_region
from faithfulness_plugin.transcoders.cross_layer_function import CrossLayerFunction, Rows


class ReadingPart(nn.Module):
    """The features of one layer: ReLU, or JumpReLU with thresholds. Its decoder is read when it is first asked for.

    Args:
        W_enc: [d_in, d_sae].
        b_enc: [d_sae].
        threshold: [d_sae], or None for ReLU.
        n_written: the width of all that it writes, K * d_out.
        decoder: reads W_dec [d_sae, K * d_out].
    """

    W_enc: Tensor
    b_enc: Tensor
    threshold: Tensor | None
    b_dec: Tensor

    def __init__(
        self,
        W_enc: Float[Tensor, "d_in d_sae"],
        b_enc: Float[Tensor, " d_sae"],
        threshold: Float[Tensor, " d_sae"] | None,
        n_written: int,
        decoder: Callable[[], Float[Tensor, "d_sae written"]],
    ) -> None:
        super().__init__()
        self.register_buffer("W_enc", W_enc)
        self.register_buffer("b_enc", b_enc)
        self.register_buffer("threshold", threshold)
        self.register_buffer("b_dec", W_enc.new_zeros(n_written))
        self._decoder = decoder

    @cached_property
    def W_dec(self) -> Float[Tensor, "d_sae written"]:
        """What features write to their own layer and to later ones, one after the other."""
        return self._decoder()

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Compute the activations.

        Args:
            x: what the layer reads.

        Returns:
            The activations.
        """
        z = x.to(self.W_enc.dtype) @ self.W_enc + self.b_enc
        return z.relu() if self.threshold is None else z * (z > self.threshold)


class CrossLayerTranscoder(CrossLayerFunction, nn.Module):
    """A finished cross-layer transcoder, as `load_cross_layer_transcoder` reads it.

    Args:
        parts: the features of each layer.
        b_dec: what is added to the layers' outputs, [L, d_out].
        metadata: what the files say: model_name, hook_name, hook_name_out.
    """

    b_dec: Tensor

    def __init__(
        self, parts: Sequence[ReadingPart], b_dec: Float[Tensor, "n_layers d_out"], metadata: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.parts, self.n_layers = nn.ModuleList(parts), len(parts)
        self.register_buffer("b_dec", b_dec.flatten())
        self.metadata = dict(metadata)

    @property
    @override
    def d_in_each(self) -> int:
        return self.parts[0].W_enc.shape[0]  # pyright: ignore

    def forward(self, x: Rows) -> Tensor:
        """Compute what the layers write.

        Args:
            x: rows, a stack or a tuple, as `flat`.

        Returns:
            [..., L * d_out], or a stack [..., L, d_out].
        """
        return self.shaped(x, self.decode(self.encode(x)))


@linear_region.register
def _part_region(
    part: ReadingPart, x: Tensor, *, gate: Tensor | LinearRegion | None = None, gate_bandwidth: float | None = None
) -> LinearRegion:
    weights = Weights.of(part)
    if gate is not None:
        return region_of_activations(gate, x, weights, gate_bandwidth)
    if gate_bandwidth is not None:
        raise ValueError("a finished cross-layer transcoder has constant gates only: train the training class")
    return DenseRegion(x, weights, part.encode(x))
