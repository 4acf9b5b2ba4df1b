"""All tasks, by name. A new one is a file in this folder and a line here."""

from collections.abc import Callable
from functools import cache

from faithfulness_plugin.benchmarks.tasks.absolute_value import absolute_value
from faithfulness_plugin.benchmarks.tasks.many_points import many_points
from faithfulness_plugin.benchmarks.tasks.memorizing_layer import memorizing_layer
from faithfulness_plugin.benchmarks.tasks.pairwise_max import pairwise_max
from faithfulness_plugin.benchmarks.tasks.rotated import rotated
from faithfulness_plugin.benchmarks.tasks.shuffled_layer import shuffled_layer
from faithfulness_plugin.benchmarks.tasks.superposition import superposition
from faithfulness_plugin.benchmarks.tasks.task import Task
from faithfulness_plugin.benchmarks.tasks.two_hops import two_hops
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.nearest import nearest

TASKS: dict[str, Callable[[], Task]] = {
    make.__name__: make
    for make in (
        absolute_value,
        many_points,
        memorizing_layer,
        rotated,
        superposition,
        pairwise_max,
        two_hops,
        shuffled_layer,
    )
}


@cache
def task(name: str) -> Task:
    """Look up a task, made once.

    Args:
        name: one of `TASKS`.

    Returns:
        The task.

    Raises:
        UsageError: there is none of that name; the message has the closest match.
    """
    if name not in TASKS:
        raise UsageError(f"there is no task {name!r}: {nearest(name, list(TASKS))}")
    return TASKS[name]()
