"""The leaderboard: all shipped methods at all tasks, and what follows from it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from faithfulness_plugin.benchmarks.figures.intervals import IntervalPanel, intervals_figure
from faithfulness_plugin.benchmarks.methods.baselines import TERMS
from faithfulness_plugin.benchmarks.suite.compare import difference, methods_of
from faithfulness_plugin.benchmarks.suite.report import headlines, task_table
from faithfulness_plugin.benchmarks.suite.schema import SuiteResult
from faithfulness_plugin.benchmarks.tasks.registry import task
from faithfulness_plugin.results.figure_file import save_figure
from faithfulness_plugin.results.html_page import self_contained
from faithfulness_plugin.results.intervals import RANGE
from faithfulness_plugin.results.schema import Interval, ResultError, fingerprint, write_text
from faithfulness_plugin.results.tables import Table

TITLE = "Faithfulness leaderboard"
CONTROL, NO_TERM = "augmentation", "none"
FIGURE = "what_matching_buys.png"

Gains = Mapping[str, Mapping[str, Interval | None]]
"""By method and task: the headline less another method's, paired by seed; None where fewer than two seeds of both
reach the layer's L0."""


def write_leaderboard(results: Sequence[SuiteResult], out: Path) -> list[Path]:
    """Write leaderboard.md, leaderboard.html and the figure into `out`; return their paths.

    Args:
        results: the first one holds the shipped methods; tables of the others stand beside its own.

    Raises:
        ResultError: a result is partial, or has one seed; `out` cannot be written.
        UsageError: the results cannot be compared.
    """
    for result in results:
        if not result.complete:
            raise ResultError("a result is partial: run its command again, it resumes")
        if len(result.spec.seeds) < 2:
            raise ResultError("a result has one seed, and the page shows intervals: run it with 2 seeds or more")
    n_methods, gains = len(methods_of(results)), headline_gains(results[0], NO_TERM)
    text = page(results, n_methods, gains)
    paths = [out / "leaderboard.md", out / "leaderboard.html", out / FIGURE]
    write_text(paths[0], text)
    save_figure(_figure(results[0], gains), paths[2], source=fingerprint(results[0]), dpi=110)
    write_text(paths[1], self_contained(TITLE, text, {FIGURE: paths[2].read_bytes()}))
    return paths


def page(results: Sequence[SuiteResult], n_methods: int, gains: Gains) -> str:
    """Return the page in Markdown.

    Args:
        gains: of the first result's methods, over those without a term."""
    first = results[0]
    n_trials = sum(len(result.trials) for result in results)
    minutes = sum(trial.seconds for result in results for trial in result.trials) / 60
    control = {name: of for name, of in headline_gains(first, CONTROL).items() if _term(name) != NO_TERM}
    parts = [
        f"# {TITLE}",
        f"Version {first.spec.suite_version} of the benchmark: {n_methods} methods at {len(first.spec.tasks)} tasks, "
        f"{len(first.spec.seeds)} seeds from a frozen list, {n_trials:,} trials of {first.spec.n_steps:,} steps "
        f"({minutes:.0f} minutes of one core in all). Scores are read at each layer's own L0, off every seed's own "
        "sweep. What tasks and scores are, and how to add a method: [docs/benchmark.md](../../../docs/benchmark.md).",
        "## Headlines",
        *(headlines(result).render("markdown") for result in results),
        "## What matching buys at matched L0",
        "The headline of a method less that of the same architecture without a term, paired by seed.",
        f"![Differences of the headline, task by task]({FIGURE})",
        _gain_table(
            gains,
            first.spec.tasks,
            f"headline, less that without a term: mean and 95 % interval of the paired differences, {RANGE}; a dash "
            "where fewer than two seeds of both reach the layer's L0.",
        ),
        "## Where it does not help",
        "\n".join(f"- **{task(name).title}.** {_no_help(name, gains)}." for name in _with_mechanism(first.spec.tasks)),
        "## Which control comes close",
        "The headline of a matched method less that of its augmentation control, which matches outputs at points "
        "beside the rows and no derivative.",
        _gain_table(
            control,
            first.spec.tasks,
            f"Headline, less that of the control: mean and 95 % interval of the paired differences, {RANGE}.",
        ),
        "## Task by task",
    ]
    for name in first.spec.tasks:
        parts += [f"### {task(name).title}", task(name).summary]
        parts += [task_table(result, name).render("markdown") for result in results if name in result.spec.tasks]
    return "\n\n".join(parts) + "\n"


def headline_gains(result: SuiteResult, term: str) -> Gains:
    """Return the gain of each method over the same architecture trained with another term, where the result has it."""
    found = methods_of([result])
    rivals = {name: f"{_architecture(name)}-{term}" for name in found if _term(name) in TERMS and _term(name) != term}
    return {
        name: {of: difference(of, found[name], found[rival]).scores.get("headline") for of in result.spec.tasks}
        for name, rival in rivals.items()
        if rival in found
    }


def _architecture(name: str) -> str:
    return name.rpartition("-")[0]


def _term(name: str) -> str:
    return name.rpartition("-")[2]


def _with_mechanism(tasks: Iterable[str]) -> list[str]:
    return [name for name in tasks if task(name).keeps != "nothing"]


def _gain_table(gains: Gains, tasks: Sequence[str], caption: str) -> str:
    return Table(["method", *tasks], [[name, *of.values()] for name, of in gains.items()], caption).render("markdown")


def _no_help(name: str, gains: Gains) -> str:
    """Return which matched methods are no better than none at a task, or worse, by the interval of the paired
    difference; and of which nobody can say."""
    kinds: dict[str, list[str]] = {"worse": [], "no better": [], "not comparable": []}
    for method, of in gains.items():
        gain = of[name]
        if _term(method) == CONTROL:
            continue
        if gain is None or gain.low is None or gain.high is None:
            kinds["not comparable"].append(method)
        elif gain.high < 0:
            kinds["worse"].append(method)
        elif gain.low <= 0:
            kinds["no better"].append(method)
    return "; ".join(f"{kind}: {', '.join(methods)}" for kind, methods in kinds.items() if methods) or (
        "It helps everywhere"
    )


def _figure(result: SuiteResult, gains: Gains) -> Figure:
    panels = []
    for name in _with_mechanism(result.spec.tasks):
        groups: dict[str, dict[str, Interval]] = {}
        for method, of in gains.items():
            gain = of[name]
            if gain is not None:
                low, high = gain.drawn
                drawn = gain.model_copy(update={"low": low, "high": high})
                groups.setdefault(_architecture(method), {})[_term(method)] = drawn
        panels.append(IntervalPanel(task(name).title, groups))
    return intervals_figure(panels, "headline, less that without a term")
