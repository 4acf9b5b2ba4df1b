"""The spec of a run: a named size, with what the user chose in place of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from faithfulness_plugin.benchmarks.methods.registry import (
    BASELINES,
    baseline,
    expand_methods,
    import_method,
    is_outside,
    source_digest,
)
from faithfulness_plugin.benchmarks.suite.schema import SEEDS, MethodSpec, SuiteSpec
from faithfulness_plugin.benchmarks.tasks.registry import TASKS, require_task
from faithfulness_plugin.errors import UsageError


@dataclass(frozen=True)
class RunSize:
    """How much of the product of tasks and methods a run takes, where nothing else is chosen."""

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    n_seeds: int
    n_steps: int
    note: str


SIZES = {
    "quick": RunSize(
        ("absolute_value", "memorizing_layer", "shuffled_layer"),
        ("relu_tanh-none", "relu_tanh-jvp", "relu_tanh-secant", "relu_tanh-augmentation", "topk-none", "topk-jvp"),
        2,
        800,
        "a look only: too short for its numbers to be quoted",
    ),
    "standard": RunSize(
        tuple(TASKS),
        tuple(name for name, b in BASELINES.items() if not b.skip or b.term in ("none", "jvp", "secant")),
        5,
        2000,
        "all tasks; skip connections without matching, with jvp and with secant",
    ),
    "full": RunSize(tuple(TASKS), tuple(BASELINES), 10, 4000, "every method on every task, longer and with more seeds"),
}


def make_spec(
    size: str,
    *,
    tasks: Sequence[str] = (),
    methods: Sequence[str] = (),
    n_seeds: int | None = None,
    n_steps: int | None = None,
    time_limit: float = 600.0,
) -> SuiteSpec:
    """Build the spec of a size, with the choices that are given in place of its own.

    Args:
        size: one of `SIZES`.
        tasks: none for the size's.
        methods: names, patterns or references; none for the size's.
        n_seeds: None for the size's.
        n_steps: steps of the shipped methods; None for the size's.
        time_limit: seconds that a trial of an outside method may take.

    Returns:
        The spec.

    Raises:
        UsageError: there is no such size, task or method, or not so many seeds.
        ValidationError: a number is out of range.
    """
    wanted = chosen_parts(size, tasks=tasks, methods=methods, n_seeds=n_seeds, n_steps=n_steps, time_limit=time_limit)
    return wanted.model_copy(update={"methods": [method_spec(m.name, wanted.n_steps) for m in wanted.methods]})


def chosen_parts(
    size: str,
    *,
    tasks: Sequence[str] = (),
    methods: Sequence[str] = (),
    n_seeds: int | None = None,
    n_steps: int | None = None,
    time_limit: float = 600.0,
) -> SuiteSpec:
    """Build the spec with the names of its methods alone, before torch is loaded.

    Args:
        size: as for `make_spec`.
        tasks: as for `make_spec`.
        methods: as for `make_spec`.
        n_seeds: as for `make_spec`.
        n_steps: as for `make_spec`.
        time_limit: as for `make_spec`.

    Returns:
        The spec.

    Raises:
        UsageError: as `make_spec`.
    """
    if size not in SIZES:
        raise UsageError(f"--size {size}: choose from {', '.join(SIZES)}")
    of_size = SIZES[size]
    n_seeds = of_size.n_seeds if n_seeds is None else n_seeds
    if not 1 <= n_seeds <= len(SEEDS):
        raise UsageError(f"--seeds {n_seeds}: the frozen list has {len(SEEDS)} of them, choose 1 to {len(SEEDS)}")
    names = list(dict.fromkeys(tasks or of_size.tasks))
    for name in names:
        require_task(name)
    wanted = expand_methods(methods or of_size.methods)
    for name in filter(is_outside, wanted):
        import_method(name)
    return SuiteSpec(
        tasks=names,
        methods=[MethodSpec(name=name, strengths=[0.0], source="") for name in wanted],
        seeds=list(SEEDS[:n_seeds]),
        n_steps=of_size.n_steps if n_steps is None else n_steps,
        time_limit=time_limit,
    )


def method_spec(name: str, n_steps: int) -> MethodSpec:
    """Describe a method with everything that decides what it does.

    Args:
        name: a shipped method's, or a reference.
        n_steps: steps of a shipped method.

    Returns:
        The description.

    Raises:
        MethodError: there is no such method.
    """
    if not is_outside(name):
        shipped = baseline(name, n_steps)
        return MethodSpec(name=name, strengths=list(shipped.strengths), source="baseline", settings=shipped.settings())
    method = import_method(name)
    return MethodSpec(name=name, strengths=[float(s) for s in method.strengths], source=source_digest(name, method))
