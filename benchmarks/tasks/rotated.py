"""|x| seen through a random rotation: no coordinate is privileged."""

from faithfulness_plugin.benchmarks.tasks.latents import LatentRows, point
from faithfulness_plugin.benchmarks.tasks.task import Mechanism, Task
from faithfulness_plugin.toy.abs_network import AbsNetwork
from faithfulness_plugin.toy.relu_network import ReluNetwork

D = 16


def rotated() -> Task:
    """Build the task of |x| in a rotated frame: a method that gains from coordinates (by its initialisation, or by a
    penalty on entries) loses that here.

    Returns:
        The task.
    """
    rows = LatentRows(D, D, "rotation", points=(point(D, 0, 1, 2, share=0.05),))
    # W_in [d, 2d] reads U x, W_out [2d, d] writes back into U's frame: y = |x U^T| U
    network, U = AbsNetwork(D), rows.directions
    return Task(
        "Absolute value through a rotation",
        "y = |x U^T| U for a fixed random rotation U, on rows that are sparse in U's directions; one repeated point of "
        "three of them.",
        (Mechanism(ReluNetwork(U.T @ network.W_in, network.W_out @ U), rows, U),),
    )
