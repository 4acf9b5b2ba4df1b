"""|x| of more latents than there are dimensions."""

import torch

from faithfulness_plugin.benchmarks.tasks.latents import LatentRows, point
from faithfulness_plugin.benchmarks.tasks.task import Mechanism, Task
from faithfulness_plugin.toy.relu_network import ReluNetwork

D, N, DEAD_ZONE = 16, 24, 0.25


def superposition() -> Task:
    """Build the task of |x| in superposition. The dead zone is as wide as two directions overlap: a latent alone does
    not wake another's neurons.

    Returns:
        The task.
    """
    rows = LatentRows(N, D, "spikes_and_waves", density=0.08, points=(point(N, 0, 1, 2, share=0.05),))
    U = rows.directions
    bias = torch.full((2 * N,), -DEAD_ZONE)
    return Task(
        "Absolute value in superposition",
        "24 latents in 16 dimensions, directions u_i overlapping by a quarter at most: y = sum_i u_i (ReLU(u_i.x - "
        "1/4) + ReLU(-u_i.x - 1/4)), 48 neurons. One repeated point of three latents.",
        (Mechanism(ReluNetwork(torch.cat([U, -U]).T, torch.cat([U, U]), bias), rows, U, shifted_density=0.16),),
    )
