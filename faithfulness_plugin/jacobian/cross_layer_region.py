"""The linear region of a cross-layer transcoder: one region for each layer that reads, which all write on."""

from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.display import line
from faithfulness_plugin.jacobian.across_layers import across_layers
from faithfulness_plugin.jacobian.active import ActiveFeatures
from faithfulness_plugin.jacobian.exact import unit_probes
from faithfulness_plugin.jacobian.linear_region import LinearRegion, Weights
from faithfulness_plugin.layers.layer_chain import Link
from faithfulness_plugin.layers.probe_shape import check_probe_shape
from faithfulness_plugin.layers.row_differences import RowDifferences


class CrossLayerRegion(LinearRegion):
    """y_m = sum over l <= m of W_dec_lm a_l(x_l), + b_dec_m, on rows [..., L * d_in] of what the layers read.

    Each part is the region of one layer's features, whose output is what they write to layers l, l + 1, ..., one after
    the other. Every product is one of each part: W_enc_l and W_dec_lm are read once for all m.

    Args:
        x: the rows.
        parts: for each layer l the region [..., d_in] -> [..., K_l * d_out] of its features, K_l layers being written
            to.
        b_dec: the biases of what is written, [L * d_out].
    """

    def __init__(
        self, x: Float[Tensor, "*batch d_in"], parts: Sequence[LinearRegion], b_dec: Float[Tensor, " d_out"]
    ) -> None:
        # past the base's frozen fields
        object.__setattr__(self, "x", x)
        self.parts, self.b_dec = tuple(parts), b_dec
        self.d_out = len(b_dec) // len(self.parts)

    def __repr__(self) -> str:
        return line("CrossLayerRegion", {"x": self.x, "parts": self.parts})

    @cached_property
    def weights(self) -> Weights:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The weights as those of one transcoder of L * d_sae features, zeros included: quadratic in L, for measures
        of small ones."""
        each = [part.weights for part in self.parts]
        W_enc = torch.block_diag(*(weights.W_enc for weights in each))  # [L * d_in, L * d_sae]
        return Weights(W_enc, whole_decoder([weights.W_dec for weights in each], self.d_out), self.b_dec)

    @property
    @override
    def trains_gates(self) -> bool:
        return all(part.trains_gates for part in self.parts)

    @property
    @override
    def feature_acts(self) -> Tensor:
        return torch.cat([part.feature_acts for part in self.parts], dim=-1)  # [..., L * d_sae]

    @property
    def hidden_pre(self) -> Float[Tensor, "*batch d_sae"] | None:
        """The pre-activations of all layers' features, where all are known."""
        each = [getattr(part, "hidden_pre", None) for part in self.parts]
        return None if any(pre is None for pre in each) else torch.cat(each, dim=-1)  # pyright: ignore

    @override
    def decode(self) -> Float[Tensor, "*batch d_out"]:
        # K_l outputs [..., d_out] of each part, to [..., L * d_out]
        return self._joined([self.written(part.decode()) for part in self.parts]) + self.b_dec

    @override
    def output(self) -> Float[Tensor, "*batch d_out"]:
        return self.decode()

    @override
    def jvp(self, v: Tensor, along: RowDifferences | None = None) -> Tensor:
        check_probe_shape(self.x.shape, v)
        return self._push(v, along)

    @override
    def vjp(self, u: Tensor) -> Tensor:
        check_probe_shape(torch.Size([*self.x.shape[:-1], len(self.b_dec)]), u)
        return self._pull(u)

    @override
    def _push(self, v: Tensor, along: RowDifferences | None) -> Tensor:
        directions = v.chunk(len(self.parts), dim=-1)  # [(n_probes,) ..., d_in] each
        return self._joined([self.partial_jvp(source, v_l, along) for source, v_l in enumerate(directions)])

    @override
    def _pull(self, u: Tensor) -> Tensor:
        widths = [part.weights.W_dec.shape[1] for part in self.parts]  # K_l * d_out
        starts = [source * self.d_out for source in range(len(self.parts))]
        pulled = [part.vjp(u[..., s : s + width]) for part, s, width in zip(self.parts, starts, widths, strict=True)]
        return torch.cat(pulled, dim=-1)  # L times [(n_probes,) ..., d_in]

    def partial_jvp(
        self,
        source: int,
        v: Float[Tensor, "*probes_batch d_in"],
        along: RowDifferences | None = None,
    ) -> tuple[Float[Tensor, "*probes_batch d_out"], ...]:
        """Compute P_lm v for m = l, l + 1, ...: what moves when x_l alone does, with all that is read elsewhere held.

        Args:
            source: the layer l that reads.
            v: one probe for each row, [..., d_in], or several, with n_probes in front.
            along: which rows the probes are differences of, where they are.

        Returns:
            One product for each layer that is written to.
        """
        # one product with W_enc_l, and one with W_dec_l [d_sae, K * d_out] for all m
        return self.written(self.parts[source].jvp(v, along))

    def written(self, y: Float[Tensor, "*batch width"]) -> tuple[Float[Tensor, "*batch d_out"], ...]:
        """Cut what one layer's features write into the layers that it is written to.

        Args:
            y: [..., K * d_out].

        Returns:
            K tensors [..., d_out].
        """
        return y.split(self.d_out, dim=-1)

    def partial_jacobian(self, source: int, target: int) -> Float[Tensor, "*batch d_out d_in"]:
        """Compute P_lm = W_dec_lm diag(g_l) W_enc_l.

        Args:
            source: the layer l that reads.
            target: the layer m that is written to.

        Returns:
            One Jacobian per row; 0 for pairs that are not kept.
        """
        probes = unit_probes(self.parts[source].x)
        products = self.partial_jvp(source, probes) if target >= source else ()
        if not 0 <= target - source < len(products):
            return probes.new_zeros(*probes.shape[1:-1], self.d_out, len(probes))
        return products[target - source].movedim(0, -1)  # [d_in, ..., d_out] to [..., d_out, d_in]

    def total_jvp(
        self,
        source: int,
        v: Float[Tensor, "*probes_batch d_in"],
        link: Link,
    ) -> list[Float[Tensor, "*probes_batch d_out"]]:
        """Compute T_lm v for m = l, l + 1, ..., L - 1: what moves when x_l does, and all that depends on it.

        Args:
            source: the layer l that reads.
            v: as in `partial_jvp`.
            link: how the next layer's input is made: "feed", of y alone; "residual", of x + y.

        Returns:
            One product for each layer from l on.
        """
        # P_lm v [(n_probes,) ..., d_out] for each m
        own = self.partial_jvp(source, v)
        n = len(self.parts)
        starts = [v if k == source else None for k in range(n)]
        reached = across_layers(starts, [own if k == source else () for k in range(n)], self.partial_jvp, link)
        return [own[0], *(own[0].new_zeros(own[0].shape) if dy is None else dy for dy in reached[source + 1 :])]

    def total_jacobian(self, source: int, target: int, link: Link) -> Float[Tensor, "*batch d_out d_in"]:
        """Compute T_lm, the derivative of y_m by x_l through the chain.

        Args:
            source: the layer l that reads.
            target: the layer m that is written to; l or a later one.
            link: as in `total_jvp`.

        Returns:
            One Jacobian per row.
        """
        return self.total_jvp(source, unit_probes(self.parts[source].x), link)[target - source].movedim(0, -1)

    @override
    def masking(self) -> Float[Tensor, ""]:
        return torch.stack([part.masking() for part in self.parts]).sum()

    @override
    def _sum_of_active(self, values: Tensor) -> Tensor:
        each = values.chunk(len(self.parts))
        return torch.stack([part._sum_of_active(of) for part, of in zip(self.parts, each, strict=True)]).sum()

    @override
    def active(self) -> ActiveFeatures:
        each = [part.active() for part in self.parts]
        n_rows, d_sae = each[0].n_rows, each[0].d_sae
        # feature i of layer l is number l * d_sae + i
        positions = [of.rows * len(each) * d_sae + source * d_sae + of.features for source, of in enumerate(each)]
        return ActiveFeatures.of_flat(torch.cat(positions).sort().values, n_rows, len(each) * d_sae)

    def _joined(self, written: Sequence[Sequence[Tensor]]) -> Tensor:
        """Sum what all layers' features write to each layer, [..., L * d_out]."""
        # for each layer written to, what the layers up to it write there, [..., d_out] each
        columns: list[list[Tensor]] = [[] for _ in self.parts]
        for source, parts in enumerate(written):
            for k, y in enumerate(parts):
                columns[source + k].append(y)
        return torch.cat([sum(column[1:], column[0]) for column in columns], dim=-1)


def whole_decoder(each: Sequence[Tensor], d_out: int) -> Float[Tensor, "features written"]:
    """Put all decoders into the one matrix of a transcoder of L * d_sae features.

    Args:
        each: for each layer what its features write to layers l, l + 1, ..., [d_sae, K_l * d_out].
        d_out: the width of one layer's output.

    Returns:
        [L * d_sae, L * d_out], block-triangular.
    """
    n = len(each)
    rows = []
    for source, W_dec in enumerate(each):
        before, after = source * d_out, n * d_out - source * d_out - W_dec.shape[1]
        rows.append(torch.nn.functional.pad(W_dec, (before, after)))
    return torch.cat(rows)
