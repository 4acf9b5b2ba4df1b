"""What a run of the benchmark says: every method's scores at the layer's own L0."""

from collections.abc import Sequence

from faithfulness_plugin.benchmarks.methods.registry import BASELINES
from faithfulness_plugin.benchmarks.suite.at_layer_l0 import AtLayerL0, at_layer_l0
from faithfulness_plugin.benchmarks.suite.schema import SuiteResult, TrialRecord
from faithfulness_plugin.benchmarks.suite.scores import Scores, l0_of
from faithfulness_plugin.benchmarks.suite.sizes import SIZES
from faithfulness_plugin.benchmarks.tasks.registry import TASKS, task
from faithfulness_plugin.results.intervals import RANGE
from faithfulness_plugin.results.schema import Interval
from faithfulness_plugin.results.tables import Table

SHOWN = {
    "headline": "headline",
    "memorization": "memorization",
    "circuits_f1": "circuits F1",
    "jacobian_error": "Jacobian error",
    "response_error": "response error",
    "response_error_data": "response error, data",
    "fvu": "FVU",
    "fvu_shifted": "FVU, shifted",
}
"""The table's columns by score."""


def task_table(result: SuiteResult, name: str) -> Table:
    """All methods at one task, in the result's order."""
    found = [at_layer_l0(result, name, method.name) for method in result.spec.methods]
    rows = [[of.method, reached_text(of), *(cell(of, score) for score in SHOWN)] for of in found]
    partial = "" if result.complete else " PARTIAL result."
    caption = (
        f"{task(name).title}: scores at the layer's own L0 ({result.layer_l0[name]:.2f}), interpolated in each seed's "
        f"sweep; mean and 95 % interval over the seeds that reach it (Student's t), {RANGE}.{partial} Where fewer "
        "than half do, the nearest L0 and the headline there."
    )
    return Table(["method", "seeds at the layer's L0", *SHOWN.values()], rows, caption)


def cell(of: AtLayerL0, score: str) -> Interval | str | None:
    """A score there; in the headline's place where the L0 is not reached, and what the method does nearest to it."""
    if of.scores:
        return of.scores[score]
    if score != "headline" or of.nearest_l0 is None:
        return None
    return f"not reached ({of.nearest_headline:.3f} at L0 {of.nearest_l0:.2f})"


def reached_text(of: AtLayerL0) -> str:
    """How many seeds reach the layer's L0, and what failed."""
    failed = f", {of.failed} trials failed" if of.failed else ""
    return f"{of.reached} of {of.n}{failed}"


def headlines(result: SuiteResult) -> Table:
    """Methods by tasks: the headline, at the layers' own L0."""
    rows = [
        [method.name, *(cell(at_layer_l0(result, name, method.name), "headline") for name in result.spec.tasks)]
        for method in result.spec.methods
    ]
    seeds = len(result.spec.seeds)
    caption = (
        f"Headline at the layer's own L0 (1: the mechanism is kept, 0: the shortcut; shuffled layer: circuits found by "
        f"chance); {seeds} seed{'s' * (seeds > 1)}, mean and 95 % interval, {RANGE}."
    )
    return Table(["method", *result.spec.tasks], rows, caption)


def failures(result: SuiteResult) -> Sequence[str]:
    """A line for each kind of failure."""
    counts: dict[tuple[str, str, str], int] = {}
    for record in result.trials:
        if record.failed is not None:
            key = (record.method, record.task, record.failed)
            counts[key] = counts.get(key, 0) + 1
    return [f"{method} at {name}: {n} trial{'s' * (n > 1)} failed: {why}" for (method, name, why), n in counts.items()]


def tasks_table() -> Table:
    """All tasks there are."""
    rows = [[name, task(name).title, f"{l0_of(task(name)):.2f}", task(name).summary] for name in TASKS]
    return Table(
        ["task", "title", "layer's L0", "what it is"], rows, "The layer's L0 is its effective one, on clean rows."
    )


def methods_table() -> Table:
    """The shipped methods."""
    rows = [[name, ", ".join(f"{s:g}" for s in b.strengths)] for name, b in BASELINES.items()]
    return Table(["method", "strengths"], rows, "A method of your own: --method my_package.my_module:method.")


def sizes_table() -> Table:
    """What `--size` stands for."""
    rows = [
        [name, str(len(s.tasks)), str(len(s.methods)), str(s.n_seeds), f"{s.n_steps:,}", s.note]
        for name, s in SIZES.items()
    ]
    return Table(["size", "tasks", "methods", "seeds", "steps", "note"], rows, "Pass one to --size.")


def scores_table() -> Table:
    """What each score is."""
    rows = [[name, field.description or ""] for name, field in Scores.model_fields.items()]
    return Table(["score", "what it is"], rows, "J_f, J_t: Jacobians of layer and transcoder; D_f, D_t: their answers.")


def part_line(records: Sequence[TrialRecord]) -> str:
    """What is said while a run goes on, of trials of one method at one task."""
    scored = [record.scores.headline for record in records if record.scores is not None]
    failed = f", {len(records) - len(scored)} failed" if len(scored) < len(records) else ""
    best = f", headline up to {max(scored):.2f}" if scored else ""
    return f"{records[0].task}, {records[0].method}: {len(records)} trials{best}{failed}"
