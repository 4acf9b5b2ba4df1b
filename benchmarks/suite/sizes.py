"""How much of the product of tasks and methods a run takes."""

from dataclasses import dataclass

from faithfulness_plugin.benchmarks.methods.registry import BASELINES
from faithfulness_plugin.benchmarks.tasks.registry import TASKS


@dataclass(frozen=True)
class Size:
    """Of a run, where nothing else is asked for."""

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    n_seeds: int
    n_steps: int
    note: str


_WITH_SKIP = ("none", "jvp", "secant")
SIZES = {
    "quick": Size(
        ("absolute_value", "memorizing_layer", "shuffled_layer"),
        ("relu_tanh-none", "relu_tanh-jvp", "relu_tanh-secant", "relu_tanh-augmentation", "topk-none", "topk-jvp"),
        2,
        800,
        "a look only: too short for its numbers to be quoted",
    ),
    "standard": Size(
        tuple(TASKS),
        tuple(name for name, b in BASELINES.items() if not b.skip or b.objective in _WITH_SKIP),
        5,
        2000,
        "all tasks; skip connections without matching, with jvp and with secant",
    ),
    "full": Size(tuple(TASKS), tuple(BASELINES), 10, 4000, "every method on every task, longer and with more seeds"),
}
