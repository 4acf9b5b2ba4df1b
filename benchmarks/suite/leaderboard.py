"""The leaderboard: all that shipped methods do at all tasks, and what follows from it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from faithfulness_plugin.benchmarks.figures.intervals import IntervalPanel, intervals_figure
from faithfulness_plugin.benchmarks.methods.baselines import OBJECTIVES
from faithfulness_plugin.benchmarks.suite.compare import Difference, Entry, difference, entries
from faithfulness_plugin.benchmarks.suite.report import headlines, task_table
from faithfulness_plugin.benchmarks.suite.schema import SuiteResult
from faithfulness_plugin.benchmarks.tasks.registry import task
from faithfulness_plugin.results.html_page import self_contained
from faithfulness_plugin.results.intervals import RANGE
from faithfulness_plugin.results.panels import save_figure
from faithfulness_plugin.results.schema import Interval, ResultError, fingerprint, write_text
from faithfulness_plugin.results.tables import Table

TITLE = "Faithfulness leaderboard"
CONTROL = "augmentation"
NO_TERM = "none"
FIGURE = "what_matching_buys.png"


def write_leaderboard(results: Sequence[SuiteResult], out: Path) -> list[Path]:
    """Writes leaderboard.md, leaderboard.html and the figure into `out`; the first result holds the shipped methods.
    Returns the paths.

    Raises:
        ResultError: a result is partial, or has one seed; `out` cannot be written.
        CompareError: results that cannot stand beside each other.
    """
    for result in results:
        if not result.complete:
            raise ResultError("a result is partial: run its command again, it goes on")
        if len(result.spec.seeds) < 2:
            raise ResultError("a result has one seed, and the page shows intervals: run it with 2 seeds or more")
    found = entries(results)
    text = markdown(results, found)
    path = out / FIGURE
    try:
        out.mkdir(parents=True, exist_ok=True)
        save_figure(_figure(results[0], found), path, source=fingerprint(results[0]), dpi=110)
    except OSError as error:
        raise ResultError(f"{out} cannot be written ({error.strerror}): choose another --out") from error
    write_text(out / "leaderboard.md", text)
    write_text(out / "leaderboard.html", self_contained(TITLE, text, {FIGURE: path.read_bytes()}))
    return [out / "leaderboard.md", out / "leaderboard.html", path]


def markdown(results: Sequence[SuiteResult], found: Mapping[str, Entry]) -> str:
    """The page."""
    first = results[0]
    n_trials, n_seeds = sum(len(result.trials) for result in results), len(first.spec.seeds)
    minutes = sum(trial.seconds for result in results for trial in result.trials) / 60
    parts = [
        f"# {TITLE}",
        f"Version {first.spec.suite_version} of the benchmark: {len(found)} methods at {len(first.spec.tasks)} tasks, "
        f"{n_seeds} seeds from a frozen list, {n_trials:,} trials of {first.spec.n_steps:,} steps ({minutes:.0f} "
        "minutes of one core in all). Scores are read at each layer's own L0, off every seed's own sweep. What tasks "
        "and scores are, and how to add a method: "
        "[docs/benchmark.md](../../../docs/benchmark.md).",
        "## Headlines",
        *(headlines(result).render("markdown") for result in results),
        "## What matching buys at matched L0",
        "The headline of a method less that of the same architecture without a term, paired by seed.",
        f"![Differences of the headline, task by task]({FIGURE})",
        gains(first, found).render("markdown"),
        "## Where it does not help",
        "\n".join(f"- {line}" for line in no_help(first, found)),
        "## Which control comes close",
        "The headline of a matched method less that of its augmentation control, which matches outputs at points "
        "beside the rows and no derivative.",
        against_control(first, found).render("markdown"),
        "## Task by task",
    ]
    for name in first.spec.tasks:
        parts += [f"### {task(name).title}", task(name).summary]
        parts += [task_table(result, name).render("markdown") for result in results if name in result.spec.tasks]
    return "\n\n".join(parts) + "\n"


def pairs(result: SuiteResult, found: Mapping[str, Entry], against: str) -> Iterator[tuple[str, str, str]]:
    """(architecture, objective, name) of the methods whose architecture was also trained with the objective
    `against`."""
    for method in result.spec.methods:
        architecture, _, objective = method.name.rpartition("-")
        if objective in OBJECTIVES and objective != against and f"{architecture}-{against}" in found:
            yield architecture, objective, method.name


def gains(result: SuiteResult, found: Mapping[str, Entry], score: str = "headline") -> Table:
    """Objectives against none, by architecture and task."""
    rows = [
        [
            name,
            *(_of(difference(of, found[name], found[f"{architecture}-{NO_TERM}"]), score) for of in result.spec.tasks),
        ]
        for architecture, _, name in pairs(result, found, NO_TERM)
    ]
    caption = (
        f"{score}, less that without a term: mean and 95 % interval of the paired differences, {RANGE}; a dash where "
        "fewer than two seeds of both reach the layer's L0."
    )
    return Table(["method", *result.spec.tasks], rows, caption)


def against_control(result: SuiteResult, found: Mapping[str, Entry]) -> Table:
    """Matched methods against the augmentation control of their architecture."""
    rows = [
        [
            name,
            *(
                _of(difference(of, found[name], found[f"{architecture}-{CONTROL}"]), "headline")
                for of in result.spec.tasks
            ),
        ]
        for architecture, objective, name in pairs(result, found, CONTROL)
        if objective != NO_TERM
    ]
    caption = f"Headline, less that of the control: mean and 95 % interval of the paired differences, {RANGE}."
    return Table(["method", *result.spec.tasks], rows, caption)


def no_help(result: SuiteResult, found: Mapping[str, Entry]) -> list[str]:
    """Where a matched method is no better than none, or worse, by the interval of the paired difference; and where
    nobody can say."""
    lines = []
    for name in result.spec.tasks:
        if task(name).keeps == "nothing":
            continue
        kinds: dict[str, list[str]] = {"worse": [], "no better": [], "not comparable": []}
        for architecture, objective, method in pairs(result, found, NO_TERM):
            if objective == CONTROL:
                continue
            of = _of(difference(name, found[method], found[f"{architecture}-{NO_TERM}"]), "headline")
            if of is None or of.low is None or of.high is None:
                kinds["not comparable"].append(method)
            elif of.high < 0:
                kinds["worse"].append(method)
            elif of.low <= 0:
                kinds["no better"].append(method)
        told = "; ".join(f"{kind}: {', '.join(methods)}" for kind, methods in kinds.items() if methods)
        lines.append(f"**{task(name).title}.** {told or 'It helps everywhere'}.")
    return lines


def _of(of: Difference, score: str) -> Interval | None:
    return of.scores.get(score)


def _figure(result: SuiteResult, found: Mapping[str, Entry]) -> Figure:
    panels = []
    for name in result.spec.tasks:
        if task(name).keeps == "nothing":
            continue
        groups: dict[str, dict[str, Interval]] = {}
        for architecture, objective, method in pairs(result, found, NO_TERM):
            of = _of(difference(name, found[method], found[f"{architecture}-{NO_TERM}"]), "headline")
            if of is not None:
                low, high = of.drawn
                groups.setdefault(architecture, {})[objective] = of.model_copy(update={"low": low, "high": high})
        panels.append(IntervalPanel(task(name).title, groups))
    return intervals_figure(panels, "headline, less that without a term")
