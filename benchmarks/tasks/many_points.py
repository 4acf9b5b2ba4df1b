"""|x| with several repeated points, of different support, sign and frequency."""

from faithfulness_plugin.benchmarks.tasks.latents import LatentRows, point
from faithfulness_plugin.benchmarks.tasks.task import Mechanism, Task
from faithfulness_plugin.toy.abs_network import AbsNetwork

D = 16


def many_points() -> Task:
    """Build the task of |x| with several points: the larger a point's support, and the more often it comes, the more a
    feature for it saves.

    Returns:
        The task.
    """
    points = (
        point(D, 0, 1, 2, share=0.04),
        point(D, 2, 3, 4, share=0.02, value=-1.0),
        point(D, 5, 6, 7, 8, share=0.02),
        point(D, 9, 10, 11, 12, 13, share=0.01),
    )
    rows = LatentRows(D, D, points=points)
    return Task(
        "Absolute value, several repeated points",
        "y_i = |x_i|. Four points of three to five ones (one of them of minus ones, sharing a coordinate with another) "
        "of 1 to 4 % of the rows each.",
        (Mechanism(AbsNetwork(D), rows, rows.directions),),
    )
