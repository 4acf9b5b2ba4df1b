"""The chains of the benchmark's second track."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from faithfulness_plugin.benchmarks.chains.chain_task import ChainTask, Units
from faithfulness_plugin.benchmarks.tasks.latents import LatentRows
from faithfulness_plugin.benchmarks.tasks.registry import task

DENSITY = 0.25


def two_hops() -> ChainTask:
    """Build the two-hop Boolean circuit of the first track as one chain.

    Returns:
        The task.
    """
    first = task("two_hops").hops[0]
    d, units, writes = first.rows.d_in, [], {}
    for m, hop in enumerate(task("two_hops").hops):
        W_in, W_out = hop.layer.W_in, hop.layer.W_out
        units.append(Units(pad(W_in, (0, 0, 0, d - len(W_in))), hop.layer.b_in))
        writes[m, m] = pad(W_out, (0, d - W_out.shape[1]))
    return ChainTask(
        "Two-hop Boolean circuit",
        "The first track's: conjunctions of pairs of sixteen bits, and exclusive or of pairs of those, fed from layer "
        "to layer. As y_j = a_2j + a_2j+1 - 2 (all four bits), features that read bits can write y_j at once: one for "
        "all four bits beside the conjunctions, which are there anyway, serves two units of the second layer.",
        first.rows,
        tuple(units),
        writes,
        "feed",
    )


def absolute_values() -> ChainTask:
    """Build a chain of absolute values: of eight latents, of differences of pairs, and of differences of those.

    Returns:
        The task.
    """
    d, units, writes = 8, [], {}
    for m, n in enumerate((8, 4, 2)):
        # [d, n]: coordinate i, and from the second layer on the difference of two
        reads = pad(torch.eye(n) if m == 0 else differences(n), (0, 0, 0, d - (n if m == 0 else 2 * n)))
        units.append(both_signs(reads))
        writes[m, m] = pad(torch.eye(n), (0, d - n)).repeat(2, 1)
    return ChainTask(
        "Chain of absolute values",
        "y_i = |x_i|, then |y_2i - y_2i+1|, then the same of pairs of those, fed from layer to layer. Where one of two "
        "latents is 0, as it mostly is, the difference is their sum: features of an earlier layer write it at little "
        "error.",
        LatentRows(d, d, density=DENSITY),
        tuple(units),
        writes,
        "feed",
    )


def skipping() -> ChainTask:
    """Build a residual chain in which the last layer reads what the first one reads, and the first one erases.

    Returns:
        The task.
    """
    d, kept, erased, written = 16, 8, slice(8, 12), slice(12, 16)
    latents, pairs, last = torch.eye(d), torch.zeros(d, 4), torch.zeros(d, 2)
    pairs[:kept] = differences(4)
    last[written] = differences(2)
    skips = both_signs(latents[:, erased])
    # y_0 = |x| - x = 2 ReLU(-x) in the first eight, -x in the next four
    first = Units(torch.cat([-latents[:, :kept], skips.W_in], dim=1), torch.zeros(kept + 8))
    own = torch.cat([2 * latents[:kept], -latents[erased], latents[erased]])
    # y_2 = | | of what the second layer wrote, and |x| of what the first one erased
    across = torch.cat([torch.zeros(kept, d), latents[erased].repeat(2, 1)])
    return ChainTask(
        "Residual chain with a path that skips a layer",
        "Eight latents are replaced by their absolute values, then |differences| of pairs are added, then of pairs of "
        "those; four latents are erased by the first layer, and the last layer writes their absolute values, which it "
        "reads where the first layer does. For these four a cross-layer feature is the mechanism.",
        Latents(d, d, density=DENSITY, used=12),
        (first, both_signs(pairs), both_signs(last)),
        {
            (0, 0): own,
            (0, 2): across,
            (1, 1): latents[written].repeat(2, 1),
            (2, 2): latents[:2].repeat(2, 1),
        },
        "residual",
    )


@dataclass(frozen=True)
class Latents(LatentRows):
    """Rows of which only the first coordinates are used."""

    used: int = 16

    @override
    def latents(self, n_rows: int, generator: torch.Generator) -> Tensor:
        return super().latents(n_rows, generator) * (torch.arange(self.n, device=generator.device) < self.used)


def differences(n: int) -> Tensor:
    """Read differences of pairs.

    Args:
        n: how many.

    Returns:
        W [2 n, n] with x W = x_2i - x_2i+1.
    """
    pairs = torch.eye(2 * n)
    return pairs[:, 0::2] - pairs[:, 1::2]


def both_signs(reads: Tensor) -> Units:
    """Build the units of an absolute value.

    Args:
        reads: [d, n].

    Returns:
        2 n units: ReLU(x W), then ReLU(-x W).
    """
    return Units(torch.cat([reads, -reads], dim=1), torch.zeros(2 * reads.shape[1]))


CHAINS: dict[str, Callable[[], ChainTask]] = {task.__name__: task for task in (two_hops, absolute_values, skipping)}
"""All chains by name."""


@cache
def chain_task(name: str) -> ChainTask:
    """Look up a chain, made once.

    Args:
        name: one of `CHAINS`.

    Returns:
        The task.
    """
    return CHAINS[name]()
