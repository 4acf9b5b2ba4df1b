"""A two-hop Boolean circuit: exclusive or of conjunctions, one transcoder for each hop."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.benchmarks.tasks.latents import BitRows, LatentRows, point
from faithfulness_plugin.benchmarks.tasks.task import Mechanism, Task
from faithfulness_plugin.toy.relu_network import ReluNetwork

BITS, DENSITY, SHIFTED = 16, 0.5, 0.7
ANDS = BITS // 2


@dataclass(frozen=True)
class Conjunctions(LatentRows):
    """What the first hop writes on rows of bits: 1 where both bits of a pair are."""

    bits: BitRows = field(default_factory=BitRows)

    @override
    def latents(self, n_rows: int, generator: torch.Generator) -> Tensor:
        return self.bits.latents(n_rows, generator).unflatten(-1, (-1, 2)).prod(-1)

    @override
    def without_points(self, density: float | None = None) -> "Conjunctions":
        return replace(self, points=(), bits=self.bits.without_points(density))


def two_hops() -> Task:
    """Build the two-hop task. A transcoder that reads bits and writes the second hop's output directly would skip a
    step of the computation; one transcoder a layer cannot, and is asked for both hops.

    Returns:
        The task.
    """
    bits = BitRows(BITS, BITS, density=DENSITY, points=(point(BITS, 0, 1, 4, 5, 8, 9, share=0.05),))
    # the point's conjunctions; they come with the bits
    ands = Conjunctions(ANDS, ANDS, points=(point(ANDS, 0, 2, 4, share=0.05),), bits=bits)
    # [ands, bits]: both bits of each pair
    pairs = torch.eye(ANDS).repeat_interleave(2, dim=1)
    conjunction = ReluNetwork(2 * pairs.T, torch.eye(ANDS), torch.full((ANDS,), -3.0))
    # [outputs, ands] each: the two conjunctions of each output
    left, right = torch.eye(ANDS)[0::2], torch.eye(ANDS)[1::2]
    out = torch.eye(ANDS // 2)
    exclusive_or = ReluNetwork(torch.cat([left - right, right - left]).T, torch.cat([out, out]))
    return Task(
        "Two-hop Boolean circuit",
        "Sixteen bits; a_i = 2 ReLU(x_2i + x_2i+1 - 3/2) says that both bits of a pair are set, and y_j = |a_2j - "
        "a_2j+1| that one of two conjunctions is. One repeated point with three conjunctions and three outputs on. A "
        "method trains one transcoder a hop; the headline is the product of both.",
        (
            Mechanism(conjunction, bits, torch.eye(ANDS), counted=lambda s: s == s, shifted_density=SHIFTED),
            Mechanism(exclusive_or, ands, out, counted=_pair_differs, shifted_density=SHIFTED),
        ),
    )


def _pair_differs(s: Tensor) -> Tensor:
    # [rows, ands] -> [rows, outputs, 2]
    pairs = s.unflatten(-1, (-1, 2))
    return (pairs[..., 0] != pairs[..., 1]).repeat_interleave(2, dim=-1)
