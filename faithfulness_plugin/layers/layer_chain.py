"""Layers in a chain: what a cross-layer transcoder replaces, as one function of what all of them read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.layers.derivatives import Layer, bare

Link = Literal["feed", "residual"]
"""How the next layer's input is made: "feed", x_{m+1} = y_m; "residual", x_{m+1} = x_m + y_m."""
LINKS = ("feed", "residual")
ROUNDING = 1e-3
"""By how much, relative to its length, a row may miss what the link says: half precision."""


def linked(link: Link, x: Tensor, y: Tensor) -> Tensor:
    """Make what the next layer reads, or a direction of it. A link is linear: both are made alike.

    Args:
        link: "feed" or "residual".
        x: what a layer reads [..., d].
        y: what it writes [..., d].

    Returns:
        What the next layer reads [..., d].
    """
    return y if link == "feed" else x + y


@dataclass(frozen=True, eq=False)
class LayerChain:
    """F(x_0, ..., x_{L-1}) = (f_0(x_0), ..., f_{L-1}(x_{L-1})) on rows [..., L * d_in], the layers' inputs one after
    the other: a row-wise layer like any other, whose Jacobian is block-diagonal.

    Example:
        >>> chain = LayerChain([torch.abs, torch.square], link="feed")
        >>> chain.rows(torch.tensor([[-2.0, 3.0]]))
        tensor([[-2.,  3.,  2.,  3.]])
        >>> chain(chain.rows(torch.tensor([[-2.0, 3.0]])))
        tensor([[2., 3., 4., 9.]])
    """

    layers: Sequence[Layer]
    """f_0, ..., f_{L-1}: row-wise callables of one width."""
    link: Link | None = None
    """How the next layer's input is made of a layer's; None where nobody asks, as for partial derivatives."""
    held: bool = False
    """Something else is added between layers, such as attention, and is held fixed in total derivatives."""
    reads: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """Earlier layers whose inputs a layer reads beside its own: with {2: (0,)} f_2 is called on [..., 2 * d_in],
    x_0 before x_2."""

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if not isinstance(self.layers, Sequence) or not self.layers:
            raise UsageError(f"layers={self.layers!r}: pass a list of the layers, the first one first")
        for number, layer in enumerate(self.layers):
            if not callable(layer):
                raise TypeError(f"layer {number} must be callable, not {type(layer).__name__}")
        if self.link not in (None, *LINKS):
            raise UsageError(f"link={self.link!r} is unknown: choose one of {LINKS}, or None")
        for number, earlier in self.reads.items():
            if not 0 <= number < len(self) or list(earlier) != sorted({*earlier} & {*range(number)}):
                raise UsageError(
                    f"reads={{{number}: {tuple(earlier)}}}: name layers before layer {number} of {len(self)}, in order"
                )

    def __len__(self) -> int:
        return len(self.layers)

    def split(self, x: Float[Tensor, "*batch width"]) -> tuple[Float[Tensor, "*batch d"], ...]:
        """Cut rows into the layers' parts.

        Args:
            x: rows [..., L * d].

        Returns:
            L tensors [..., d].

        Raises:
            ValueError: a width that is no multiple of L.
        """
        if x.shape[-1] % len(self):
            raise ValueError(
                f"the rows are {x.shape[-1]} wide (shape {list(x.shape)}), and no {len(self)} layers of one width fit "
                "into them: pass [..., n_layers * d_in]"
            )
        return x.unflatten(-1, (len(self), -1)).unbind(-2)

    def __call__(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        rows = self.split(x)
        # [..., d_out] of each layer
        written = [bare(self.layers[m])(self._read(rows, m)) for m in range(len(self))]
        self._require_one_width("writes", written)
        return torch.cat(written, dim=-1)

    def rows(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch width"]:
        """Run the chain, and put side by side what its layers read.

        Args:
            x: what the first layer reads.

        Returns:
            Rows [..., L * d_in], without a graph.

        Raises:
            UsageError: a chain without a link, or one with something between that is not known here; a layer whose
                output is not as wide as its input.
        """
        if self.link is None or self.held:
            why = "holds something between its layers" if self.held else "has no link"
            raise UsageError(f"this chain {why}, so that its rows are not known: pass rows [..., n_layers * d_in]")
        read = [x]
        with torch.no_grad():
            for m in range(len(self) - 1):
                y = bare(self.layers[m])(self._read(read, m))
                if y.shape != read[m].shape:
                    raise UsageError(
                        f"layer {m} reads {read[m].shape[-1]} numbers and writes {y.shape[-1]}: a chain with a link "
                        "needs one width; widen its layers with pad_layer"
                    )
                read.append(linked(self.link, read[m], y))
        return torch.cat(read, dim=-1)

    def by(self, m: int, source: int, rows: Sequence[Tensor]) -> Layer:
        """Return layer m as a function of what layer l reads, with everything else that it reads held fixed.

        Args:
            m: the layer.
            source: itself, or one of those in `reads`.
            rows: what each layer reads.

        Returns:
            A function of [..., d_in]; the layer itself where it reads nothing else.
        """
        read = (*self.reads.get(m, ()), m)
        if len(read) == 1:
            return self.layers[m]
        others = [rows[k].detach() for k in read]

        def function(x: Tensor) -> Tensor:
            others_and_x = [x if k == source else other for k, other in zip(read, others, strict=True)]
            return bare(self.layers[m])(torch.cat(others_and_x, dim=-1))

        return function

    def readers(self, source: int) -> list[int]:
        """List the later layers that read what layer l reads.

        Args:
            source: the layer.

        Returns:
            Their numbers.
        """
        return [m for m in range(source + 1, len(self)) if source in self.reads.get(m, ())]

    def require_link(self, x: Sequence[Tensor], y: Sequence[Tensor]) -> None:
        """Check that rows are what the link makes of them.

        Args:
            x: what each layer reads.
            y: what each layer writes.

        Raises:
            UsageError: no link; widths that no link joins; rows that do not obey it, unless something is held.
        """
        if self.link is None:
            raise UsageError(
                'total derivatives go through what is between layers: pass LayerChain(layers, link="feed") or '
                '"residual", or total=0 in the matching'
            )
        for m in range(len(self) - 1):
            if y[m].shape != x[m + 1].shape:
                raise UsageError(
                    f"layer {m} writes {y[m].shape[-1]} numbers and layer {m + 1} reads {x[m + 1].shape[-1]}: a "
                    "chain with a link needs one width; widen its layers with pad_layer"
                )
            missed = (x[m + 1] - linked(self.link, x[m], y[m])).norm()
            if not self.held and missed > ROUNDING * x[m + 1].norm():
                raise UsageError(
                    f"layer {m + 1} does not read what the link {self.link!r} makes of layer {m}: something stands "
                    "between them, such as attention. Pass held=True for derivatives with that held fixed, or total=0"
                )

    def _read(self, rows: Sequence[Tensor], m: int) -> Tensor:
        return torch.cat([rows[k] for k in (*self.reads.get(m, ()), m)], dim=-1) if m in self.reads else rows[m]

    def _require_one_width(self, verb: str, parts: Sequence[Tensor]) -> None:
        widths = [part.shape[-1] for part in parts]
        other = next((m for m, width in enumerate(widths) if width != widths[0]), None)
        if other is not None:
            raise UsageError(
                f"layer {other} {verb} {widths[other]} numbers and layer 0 {widths[0]}: a cross-layer transcoder has "
                "one width for all; widen the layers with pad_layer"
            )


def pad_layer(layer: Layer, d_in: int, width: int) -> Callable[[Tensor], Tensor]:
    """Widen a layer by coordinates that it does not read, and writes as 0, for a chain of one width.

    Args:
        layer: row-wise, [..., d_in] -> [..., d_out].
        d_in: how many coordinates it reads.
        width: of the widened rows.

    Returns:
        A layer [..., width] -> [..., width].

    Raises:
        UsageError: a width that is less than what it reads; when called, one that is less than what it writes.

    Example:
        >>> pad_layer(lambda x: x.sum(-1, keepdim=True), 2, 3)(torch.tensor([1.0, 2.0, 3.0]))
        tensor([3., 0., 0.])
    """
    if not 0 < d_in <= width:
        raise UsageError(f"width={width}: the layer reads {d_in} coordinates: pass {d_in} or more")

    def padded(x: Tensor) -> Any:
        y = bare(layer)(x[..., :d_in])
        if y.shape[-1] > width:
            raise UsageError(f"width={width}: the layer writes {y.shape[-1]} coordinates: pass {y.shape[-1]} or more")
        return pad(y, (0, width - y.shape[-1]))

    return padded
