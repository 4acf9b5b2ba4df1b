"""A layer with shuffled weights: what is found of |x| here is found by chance."""

from faithfulness_plugin.benchmarks.tasks.latents import LatentRows, point
from faithfulness_plugin.benchmarks.tasks.task import Mechanism, Task
from faithfulness_plugin.toy.abs_network import AbsNetwork
from faithfulness_plugin.toy.control_layers import shuffled_network

D = 16


def shuffled_layer() -> Task:
    """Build the control of the scoring rule itself.

    Returns:
        The task.
    """
    rows = LatentRows(D, D, points=(point(D, 0, 1, 2, share=0.05),))
    return Task(
        "Shuffled layer (control)",
        "|x|'s neurons, each writing where another one should. Circuits of |x| are looked for: there are few, and "
        "every method should find as few as the layer has itself.",
        (Mechanism(shuffled_network(D), rows, rows.directions, sought=AbsNetwork(D)),),
        keeps="nothing",
    )
