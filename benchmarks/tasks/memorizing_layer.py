"""A layer that really memorises the point: here a datapoint feature is right."""

import torch

from faithfulness_plugin.benchmarks.tasks.latents import LatentRows, point
from faithfulness_plugin.benchmarks.tasks.task import Mechanism, Task
from faithfulness_plugin.toy.control_layers import memorizing_network

D = 16


def memorizing_layer() -> Task:
    """Build the control that punishes removing datapoint features whatever the layer does.

    Returns:
        The task.
    """
    rows = LatentRows(D, D, points=(point(D, 0, 1, 2, share=0.05),))
    p = torch.tensor(rows.points[0].latents)
    return Task(
        "A layer that memorises the point",
        "y = |x| + p ReLU(2 p.x - 2 p.p + 1): one neuron of the layer fires around the repeated point only. A faithful "
        "transcoder keeps it, and the three others at the point beside it.",
        (Mechanism(memorizing_network(p), rows, rows.directions),),
        keeps="memory",
    )
