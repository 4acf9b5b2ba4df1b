"""|x| with one repeated point: the smallest task."""

from faithfulness_plugin.benchmarks.tasks.latents import LatentRows, point
from faithfulness_plugin.benchmarks.tasks.task import Mechanism, Task
from faithfulness_plugin.toy.abs_network import AbsNetwork

D = 16


def absolute_value() -> Task:
    """Build the task of |x| with one repeated point.

    Returns:
        The task.

    Source: C. Olah, "A Toy Model of Mechanistic (Un)Faithfulness", Transformer Circuits, 2025.
    """
    rows = LatentRows(D, D, points=(point(D, 0, 1, 2, share=0.05),))
    return Task(
        "Absolute value, one repeated point",
        "y_i = |x_i|, by ReLU(x_i) + ReLU(-x_i). One row in twenty is the point of three ones, which a single feature "
        "could serve in place of three.",
        (Mechanism(AbsNetwork(D), rows, rows.directions),),
    )
