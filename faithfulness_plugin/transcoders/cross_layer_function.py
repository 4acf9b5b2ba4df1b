"""The function of a cross-layer transcoder, in training or read from files."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.jacobian.cross_layer_region import CrossLayerRegion, whole_decoder
from faithfulness_plugin.jacobian.dense_region import require_trained_gates
from faithfulness_plugin.jacobian.linear_region import LinearRegion, known_region, linear_region

Rows = Tensor | Sequence[Tensor]
"""Rows [..., L * d_in]; a stack [..., L, d_in]; or a tuple of L tensors [..., d_in]."""


class CrossLayerFunction(ABC):
    """y_m = sum over l <= m of W_dec_lm a_l(x_l), + b_dec_m, made of one part for each layer that is read."""

    n_layers: int
    parts: Any
    """For each layer l a module whose linear region is known, [..., d_in] -> [..., K_l * d_out]."""
    b_dec: Float[Tensor, " written"]
    """What is added to the layers' outputs, [L * d_out]."""

    @property
    @abstractmethod
    def d_in_each(self) -> int:
        """The width of what one layer reads."""

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:
        """All encoders as one block-diagonal matrix: quadratic in L, for measures of small ones."""
        return torch.block_diag(*(part.W_enc for part in self.parts))

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_out"]:
        """All decoders as one block-triangular matrix, likewise."""
        return whole_decoder([part.W_dec for part in self.parts], self.d_out_each)

    @property
    def b_enc(self) -> Float[Tensor, " d_sae"]:
        """The encoders' biases, one after the other."""
        return torch.cat([part.b_enc for part in self.parts])

    @property
    def d_out_each(self) -> int:
        """The width of what one layer writes."""
        return len(self.b_dec) // self.n_layers

    def flat(self, x: Rows) -> Float[Tensor, "*batch d_in"]:
        """Put the layers' rows side by side.

        Args:
            x: rows, a stack or a tuple.

        Returns:
            Rows [..., L * d_in].

        Raises:
            ValueError: another shape; a tuple of tensors that differ in shape.
        """
        n, d = self.n_layers, self.d_in_each
        if not isinstance(x, Tensor):
            shapes = {tuple(row.shape) for row in x}
            if len(x) != n or len(shapes) != 1:
                raise ValueError(
                    f"{len(x)} tensors of the shapes {sorted(map(list, shapes))}: pass what each of the {n} layers "
                    f"reads, [..., {d}] for all; layers that differ in width are widened with pad_layer"
                )
            x = torch.stack(tuple(x), dim=-2)
        x = self.rows_of_stack(x)
        if x.shape[-1] != n * d:
            raise ValueError(
                f"the inputs have shape {list(x.shape)}, and {n} layers of d_in={d} are replaced: pass [..., {n * d}], "
                f"or a stack [..., {n}, {d}]"
            )
        return x

    def rows_of_stack(self, x: Tensor) -> Tensor:
        """Put the layers of a stack side by side.

        Args:
            x: a stack [..., L, d_in], or anything else, which is returned as it is.

        Returns:
            Rows [..., L * d_in].
        """
        return x.flatten(-2) if self.is_stack(x) else x

    def is_stack(self, x: Rows) -> bool:
        """Tell whether layers have a dimension of their own.

        Args:
            x: as `flat`.

        Returns:
            Whether it is a tuple, or a stack [..., L, d_in]. With one layer a stack is rows as well.
        """
        return not isinstance(x, Tensor) or (
            self.n_layers > 1 and tuple(x.shape[-2:]) == (self.n_layers, self.d_in_each)
        )

    def region(self, x: Rows, *, gate: Tensor | None = None, gate_bandwidth: float | None = None) -> CrossLayerRegion:
        """Find the linear region: which features are active, W_enc, and W_dec of all pairs.

        Args:
            x: as `flat`.
            gate: activations [..., L * d_sae] at x, where they are known.
            gate_bandwidth: the width of straight-through gates; None for constant ones.

        Returns:
            The region.
        """
        x = self.flat(x)
        gates = [None] * self.n_layers if gate is None else gate.chunk(self.n_layers, dim=-1)
        rows = x.chunk(self.n_layers, dim=-1)
        parts: list[LinearRegion] = []
        for part, row, of_part in zip(self.parts, rows, gates, strict=True):
            region = linear_region(part, row, gate=of_part, gate_bandwidth=gate_bandwidth)
            parts.append(known_region(part, row) if region is None else region)
        return CrossLayerRegion(x, parts, self.b_dec)

    def encode(self, x: Rows) -> Float[Tensor, "*batch d_sae"]:
        """Compute the activations.

        Args:
            x: as `flat`.

        Returns:
            All layers' features, [..., L * d_sae]; no decoder is read.
        """
        rows = self.flat(x).chunk(self.n_layers, dim=-1)
        return torch.cat([part.encode(row) for part, row in zip(self.parts, rows, strict=True)], dim=-1)

    def decode(self, feature_acts: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_out"]:
        """Compute the outputs from activations.

        Args:
            feature_acts: all layers' features, [..., L * d_sae].

        Returns:
            [..., L * d_out].
        """
        each = feature_acts.chunk(self.n_layers, dim=-1)
        d_out = self.d_out_each
        columns: list[Tensor] = list(self.b_dec.split(d_out))
        for source, (part, acts) in enumerate(zip(self.parts, each, strict=True)):
            for k, y in enumerate((acts @ part.W_dec).split(d_out, dim=-1)):
                columns[source + k] = columns[source + k] + y
        return torch.cat(columns, dim=-1)

    def shaped(self, x: Rows, y: Float[Tensor, "*batch d_out"]) -> Tensor:
        """Give an output the form of its input.

        Args:
            x: what was passed.
            y: the output, [..., L * d_out].

        Returns:
            A stack [..., L, d_out] for a stack or a tuple, else y.
        """
        return y.unflatten(-1, (self.n_layers, self.d_out_each)) if self.is_stack(x) else y


@linear_region.register
def _cross_layer_region(
    transcoder: CrossLayerFunction,
    x: Tensor,
    *,
    gate: Tensor | LinearRegion | None = None,
    gate_bandwidth: float | None = None,
) -> LinearRegion:
    if isinstance(gate, LinearRegion):
        require_trained_gates(gate, gate_bandwidth)
        return gate
    return transcoder.region(x, gate=gate, gate_bandwidth=gate_bandwidth)
