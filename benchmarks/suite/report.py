"""The tables of a run: every method's scores at the layer's own L0; and of what there is to run."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from faithfulness_plugin.benchmarks.methods.registry import BASELINES
from faithfulness_plugin.benchmarks.suite.at_layer_l0 import at_layer_l0
from faithfulness_plugin.benchmarks.suite.schema import Scores, SuiteResult, TrialRecord
from faithfulness_plugin.benchmarks.suite.scores import l0_of
from faithfulness_plugin.benchmarks.suite.spec import SIZES
from faithfulness_plugin.benchmarks.tasks.registry import TASKS, task
from faithfulness_plugin.results.intervals import RANGE
from faithfulness_plugin.results.tables import Table
from faithfulness_plugin.results.vocabulary import HALF_WAY_ERROR, RESPONSE_ERROR

SHOWN = {
    "headline": "headline",
    "memorization": "memorization",
    "circuits_f1": "circuits F1",
    "jacobian_error": "Jacobian error",
    "response_error": RESPONSE_ERROR,
    "response_error_data": HALF_WAY_ERROR,
    "fvu": "FVU",
    "fvu_shifted": "FVU, shifted",
}
"""The scores that tables show, with their columns' titles."""


def tables(result: SuiteResult) -> str:
    """Format each task that has trials, and of a complete result the headlines and what failed.

    Args:
        result: complete or partial.

    Returns:
        Markdown.
    """
    shown = [task_table(result, name) for name in result.spec.tasks if any(t.task == name for t in result.trials)]
    if result.complete and len(result.spec.tasks) > 1:
        shown.append(headlines(result))
    failed = [f"{line}\n" for line in failures(result.trials)]
    return "\n".join([*(table.render("markdown") for table in shown), *failed])


def task_table(result: SuiteResult, name: str) -> Table:
    """Format the scores of all methods at one task, in the result's order.

    Args:
        result: complete or partial.
        name: the task's.

    Returns:
        The table.
    """
    rows = []
    for method in result.spec.methods:
        found = at_layer_l0(result, name, method.name)
        rows.append([method.name, found.seeds, *(found.cell(score) for score in SHOWN)])
    partial = "" if result.complete else " PARTIAL result."
    caption = (
        f"{task(name).title}: scores at the layer's own L0 ({result.layer_l0[name]:.2f}), interpolated in each seed's "
        f"sweep; mean and 95 % interval over the seeds that reach it (Student's t), {RANGE}.{partial} Where fewer "
        "than half do, the nearest L0 and the headline there."
    )
    return Table(["method", "seeds at the layer's L0", *SHOWN.values()], rows, caption)


def headlines(result: SuiteResult) -> Table:
    """Format the headline of each method at each task, at the layers' own L0.

    Args:
        result: complete or partial.

    Returns:
        The table.
    """
    rows = [
        [method.name, *(at_layer_l0(result, name, method.name).cell("headline") for name in result.spec.tasks)]
        for method in result.spec.methods
    ]
    caption = (
        f"Headline at the layer's own L0 (1: the mechanism is kept, 0: the shortcut; shuffled layer: circuits found by "
        f"chance); {n_seeds(result)}, mean and 95 % interval, {RANGE}."
    )
    return Table(["method", *result.spec.tasks], rows, caption)


def n_seeds(result: SuiteResult) -> str:
    """Write the number of seeds in words.

    Args:
        result: complete or partial.

    Returns:
        Such as "5 seeds".
    """
    n = len(result.spec.seeds)
    return f"{n} seed{'s' * (n > 1)}"


def failures(trials: Sequence[Any]) -> list[str]:
    """List failures, one line a kind.

    Args:
        trials: records of either track, with and without scores.

    Returns:
        The lines.
    """
    counts = Counter((t.method, t.task, t.failed) for t in trials if t.failed is not None)
    return [f"{method} at {name}: {n} trial{'s' * (n > 1)} failed: {why}" for (method, name, why), n in counts.items()]


def progress_line(trials: Sequence[TrialRecord]) -> str:
    """Summarise finished trials of one method at one task.

    Args:
        trials: at least one.

    Returns:
        One line.
    """
    scored = [trial.scores.headline for trial in trials if trial.scores is not None]
    failed = f", {len(trials) - len(scored)} failed" if len(scored) < len(trials) else ""
    best = f", headline up to {max(scored):.2f}" if scored else ""
    return f"{trials[0].task}, {trials[0].method}: {len(trials)} trials{best}{failed}"


def tasks_table() -> Table:
    """Format all tasks.

    Returns:
        The table.
    """
    rows = [[name, task(name).title, f"{l0_of(task(name)):.2f}", task(name).summary] for name in TASKS]
    caption = "The layer's L0 is its effective one, on clean rows."
    return Table(["task", "title", "layer's L0", "what it is"], rows, caption)


def methods_table() -> Table:
    """Format the shipped methods.

    Returns:
        The table.
    """
    rows = [[name, ", ".join(f"{s:g}" for s in b.strengths)] for name, b in BASELINES.items()]
    return Table(["method", "strengths"], rows, "A method of your own: --method my_package.my_module:method.")


def sizes_table() -> Table:
    """Format what `--size` takes.

    Returns:
        The table.
    """
    rows = [
        [name, str(len(s.tasks)), str(len(s.methods)), str(s.n_seeds), f"{s.n_steps:,}", s.note]
        for name, s in SIZES.items()
    ]
    return Table(["size", "tasks", "methods", "seeds", "steps", "note"], rows, "Pass one to --size.")


def scores_table() -> Table:
    """Format what each score is.

    Returns:
        The table.
    """
    rows = [[name, field.description or ""] for name, field in Scores.model_fields.items()]
    caption = "J_f, J_t: Jacobians of layer and transcoder; D_f, D_t: their responses."
    return Table(["score", "what it is"], rows, caption)
