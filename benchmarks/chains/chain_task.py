"""A chain of layers whose mechanism is known, and the rows on which methods learn it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from faithfulness_plugin import metrics
from faithfulness_plugin.benchmarks.tasks.latents import LatentRows
from faithfulness_plugin.benchmarks.tasks.task import N_ROWS
from faithfulness_plugin.layers.layer_chain import LayerChain, Link
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.transcoders.cross_layer_inference import CrossLayerTranscoder, ReadingPart


@dataclass(frozen=True, eq=False)
class Units:
    """ReLU units that read one layer's input: u(x) = ReLU(x W_in + b_in)."""

    W_in: Float[Tensor, "d n_units"]
    b_in: Float[Tensor, " n_units"]

    def __call__(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n_units"]:
        return torch.relu(x @ self.W_in + self.b_in)


@dataclass(frozen=True, eq=False)
class ChainTask:
    """Layers f_m = sum over l of u_l(x_l) W_lm: with l = m alone where no path skips a layer."""

    title: str
    summary: str
    """What the chain computes, and how its data let a cross-layer transcoder skip a layer."""
    source: LatentRows
    """What the first layer reads, with the repeated points of the task where it has some."""
    units: tuple[Units, ...]
    """The chain's own units, layer by layer, by which layer they read."""
    writes: Mapping[tuple[int, int], Float[Tensor, "n_units d"]]
    """W_lm by (l, m); pairs that are left out are 0."""
    link: Link

    @property
    def d(self) -> int:
        """The width of every layer."""
        return len(self.units[0].W_in)

    @property
    def name(self) -> str:
        """The chain's size in words."""
        return f"{len(self.units)} layers of {self.d}"

    @cached_property
    def chain(self) -> LayerChain:
        """The layers. One that reads an earlier layer's input says so (`reads`)."""
        n = len(self.units)
        sources = [[source for source in range(m + 1) if (source, m) in self.writes] for m in range(n)]
        layers: list[Callable[[Tensor], Tensor]] = [partial(self._layer, m, tuple(of)) for m, of in enumerate(sources)]
        return LayerChain(layers, self.link, reads={m: of[:-1] for m, of in enumerate(sources) if len(of) > 1})

    @cached_property
    def exact(self) -> CrossLayerTranscoder:
        """The cross-layer transcoder that is the chain: a feature for each unit, and dead ones up to the same number in
        each layer."""
        n, most, parts = len(self.units), max(len(units.b_in) for units in self.units), []
        for source, units in enumerate(self.units):
            dead = most - len(units.b_in)
            each = [self.writes.get((source, m), torch.zeros(len(units.b_in), self.d)) for m in range(source, n)]
            decoder = partial(pad, torch.cat(each, dim=1), (0, 0, 0, dead))  # [most, K * d]
            W_enc, b_enc = pad(units.W_in, (0, dead)), pad(units.b_in, (0, dead))
            parts.append(ReadingPart(W_enc, b_enc, None, (n - source) * self.d, decoder))
        return CrossLayerTranscoder(parts, torch.zeros(n, self.d), {})

    @cached_property
    def clean(self) -> Float[Tensor, "rows width"]:
        """What all layers read on rows without points, which no method sees."""
        generator = torch.Generator().manual_seed(derived_seed(0, "evaluation clean"))
        return self.chain.rows(self.source.without_points().draw(N_ROWS, generator))

    @cached_property
    def l0(self) -> float:
        """The chain's own effective L0: units of all layers together, a row."""
        return metrics.reconstruction(self.exact, self.chain, self.clean).effective_l0

    def _layer(self, m: int, sources: tuple[int, ...], x: Tensor) -> Tensor:
        """Compute f_m on [..., k * d]: what earlier layers read that it reads, in order, and its own last."""
        read = x.chunk(len(sources), dim=-1)
        each = [
            self.units[source](row) @ self.writes[source, m] for source, row in zip(sources, read, strict=True)
        ]  # [..., d]
        return sum(each[1:], each[0])
