"""A task: layers whose mechanism is known, the rows on which methods learn them, and what a headline asks for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from faithfulness_plugin import metrics
from faithfulness_plugin.benchmarks.tasks.latents import LatentRows
from faithfulness_plugin.metrics.circuit_projection import Circuit
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.toy.exact_transcoder import exact_transcoder
from faithfulness_plugin.toy.relu_network import ReluNetwork

N_ROWS = 4096
N_JACOBIAN = 512
KeepsWhat = Literal["circuits", "memory", "nothing"]


@dataclass(frozen=True, eq=False)
class Mechanism:
    """One layer, and everything that transcoders of it are measured with.

    Rows for measuring are drawn from a seed of their own, which methods never see."""

    layer: ReluNetwork
    """Its neurons are the ideal circuits."""
    rows: LatentRows
    """The rows that methods learn from, with the repeated points."""
    writes: Float[Tensor, "n_writes d_out"]
    """Unit directions that the circuits write to: the basis that separates them from memorization."""
    counted: Callable[[Tensor], Tensor] = field(default=lambda s: s != 0)
    """Latents [rows, n] -> [rows, n]: along which of the rows' directions Jacobians are compared. At a kink the layer
    has no derivative."""
    shifted_density: float = 0.2
    sought: ReluNetwork | None = None
    """The network whose neurons are looked for in the transcoder, where they are not the layer's own."""

    @cached_property
    def clean(self) -> Float[Tensor, "rows d_in"]:
        """Rows without points."""
        return self.rows.rows_of(self.clean_latents)

    @cached_property
    def clean_latents(self) -> Float[Tensor, "rows n"]:
        """The latents of the clean rows."""
        return self.rows.without_points().latents(N_ROWS, _generator("clean"))

    @cached_property
    def shifted(self) -> Float[Tensor, "rows d_in"]:
        """Rows of another density, without points: for methods, out of distribution."""
        return self.rows.without_points(self.shifted_density).draw(N_ROWS, _generator("shifted"))

    @cached_property
    def repeated(self) -> Float[Tensor, "rows d_in"]:
        """Rows as methods see them, with points."""
        return self.rows.draw(N_ROWS, _generator("repeated"))

    @cached_property
    def points(self) -> list[Float[Tensor, " d_in"]]:
        """The repeated points."""
        return list(self.rows.point_rows)

    @cached_property
    def differentiable(self) -> Bool[Tensor, "rows n"]:
        """The directions along which Jacobians are compared, at the first clean rows."""
        return self.counted(self.clean_latents[:N_JACOBIAN])

    @cached_property
    def circuits(self) -> list[Circuit]:
        """The circuits that are looked for and occur in the rows."""
        network = self.layer if self.sought is None else self.sought
        return [circuit for circuit in network.circuits() if circuit.activation(self.repeated).any()]

    @cached_property
    def l0(self) -> float:
        """The layer's own effective L0: features per clean row that matter, were there one for each neuron."""
        return metrics.reconstruction(exact_transcoder(self.layer), self.layer, self.clean).effective_l0


@dataclass(frozen=True, eq=False)
class Task:
    """A problem: one layer, or several that a computation runs through. The function that makes it has its name."""

    title: str
    summary: str
    """What the layer computes, what shortcut its data offer, and what keeping the mechanism means."""
    hops: tuple[Mechanism, ...]
    keeps: KeepsWhat = "circuits"
    """What the headline asks for: "circuits", that no feature serves a point alone; "memory", that one does, as in the
    layer; "nothing", the control, at which nothing is to be found."""


def _generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(0, f"evaluation {name}"))
