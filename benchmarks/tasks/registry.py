"""All tasks, by name. A new one is a file in this folder and a line here."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.lazy_table import LazyTable
from faithfulness_plugin.nearest import nearest

if TYPE_CHECKING:
    from faithfulness_plugin.benchmarks.tasks.task import Task

FOLDER = "faithfulness_plugin.benchmarks.tasks"
NAMES = (
    "absolute_value",
    "many_points",
    "memorizing_layer",
    "rotated",
    "superposition",
    "pairwise_max",
    "two_hops",
    "shuffled_layer",
)
"""Each is a function in the module of its name."""
TASKS: LazyTable[Callable[[], "Task"]] = LazyTable({name: f"{FOLDER}.{name}:{name}" for name in NAMES})


def require_task(name: str) -> None:
    """Refuse a task that does not exist.

    Args:
        name: the task's.

    Raises:
        UsageError: there is none of that name; the message has the closest match.
    """
    if name not in TASKS:
        raise UsageError(f"there is no task {name!r}: {nearest(name, list(TASKS))}")


@cache
def task(name: str) -> "Task":
    """Look up a task, made once.

    Args:
        name: one of `TASKS`.

    Returns:
        The task.

    Raises:
        UsageError: there is none of that name; the message has the closest match.
    """
    require_task(name)
    return TASKS[name]()
