"""The larger of two inputs."""

import torch
from torch import Tensor

from faithfulness_plugin.benchmarks.tasks.latents import LatentRows, point
from faithfulness_plugin.benchmarks.tasks.task import Mechanism, Task
from faithfulness_plugin.toy.relu_network import ReluNetwork

PAIRS = 8


def pairwise_max() -> Task:
    """Build the task of pairwise maxima: a transcoder needs features for the linear parts as well as for the kinks.

    Returns:
        The task.
    """
    n = 2 * PAIRS
    # [pairs, n] each: x_2i, x_2i+1; out [pairs, pairs]
    first, second, out = torch.eye(n)[0::2], torch.eye(n)[1::2], torch.eye(PAIRS)
    reads, writes = torch.cat([first - second, second, -second]), torch.cat([out, out, -out])
    rows = LatentRows(n, n, points=(point(n, 0, 2, 4, share=0.05),))
    return Task(
        "Pairwise maximum",
        "y_i = max(x_2i, x_2i+1), by ReLU(x_2i - x_2i+1) + ReLU(x_2i+1) - ReLU(-x_2i+1). One repeated point at which "
        "three pairs are active. Other neurons compute the same (and a skip connection takes the linear part): "
        "recovered circuits count these three a pair.",
        (Mechanism(ReluNetwork(reads.T, writes), rows, out, counted=_pair_is_off_the_kink),),
    )


def _pair_is_off_the_kink(s: Tensor) -> Tensor:
    # latents [rows, n] -> [rows, pairs, 2]
    pairs = s.unflatten(-1, (-1, 2))
    off = (pairs[..., 0] != pairs[..., 1]) & (pairs[..., 1] != 0)
    return off.repeat_interleave(2, dim=-1)
