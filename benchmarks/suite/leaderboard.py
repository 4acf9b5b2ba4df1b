"""The leaderboard: all shipped methods at all tasks, and what follows from it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from matplotlib.figure import Figure

from faithfulness_plugin.benchmarks.figures.intervals import IntervalPanel, intervals_figure
from faithfulness_plugin.benchmarks.methods.baselines import TERMS
from faithfulness_plugin.benchmarks.suite.board import board
from faithfulness_plugin.benchmarks.suite.compare import difference, methods_of
from faithfulness_plugin.benchmarks.suite.ranking import ranking_table, with_mechanism
from faithfulness_plugin.benchmarks.suite.report import task_table
from faithfulness_plugin.benchmarks.suite.schema import SuiteResult
from faithfulness_plugin.benchmarks.suite.with_skip_page import section as with_skip
from faithfulness_plugin.benchmarks.tasks.registry import task
from faithfulness_plugin.results.figure_file import save_figure
from faithfulness_plugin.results.html_page import self_contained
from faithfulness_plugin.results.intervals import RANGE
from faithfulness_plugin.results.schema import Interval, ResultError, fingerprint, write_text
from faithfulness_plugin.results.tables import Table

TITLE = "Faithfulness leaderboard"
CONTROL, NO_TERM = "augmentation", "none"
FIGURE = "what_matching_buys.png"
LINK = "**[To sort, to filter, and with a card for each method](leaderboard.html)**"

Gains = Mapping[str, Mapping[str, Interval | None]]
"""The headline less another method's, by method and task, paired by seed; None where fewer than two seeds of both
reach the layer's L0."""


def write_leaderboard(results: Sequence[SuiteResult], out: Path, beside: Mapping[str, str] | None = None) -> list[Path]:
    """Write leaderboard.md, the figure, and leaderboard.html, whose methods can be sorted, filtered and opened.

    Args:
        results: the first one holds the shipped methods; the others' are ranked and shown beside them.
        out: the folder for the page.
        beside: Markdown of other results that belong beside these, by its title.

    Returns:
        The paths that were written.

    Raises:
        ResultError: a result is partial, or has one seed; `out` cannot be written.
        UsageError: the results cannot be compared.
    """
    for result in results:
        if not result.complete:
            raise ResultError("a result is partial: run its command again, which resumes it")
        if len(result.spec.seeds) < 2:
            raise ResultError("a result has one seed, and the page shows intervals: run it with 2 seeds or more")
    gains = _headline_gains(results[0], NO_TERM)
    text = _page(results, gains, beside or {})
    paths = [out / "leaderboard.md", out / "leaderboard.html", out / FIGURE]
    write_text(paths[0], text.replace("\n\n", f"\n\n{LINK}\n\n", 1))
    save_figure(_figure(results[0], gains), paths[2], source=fingerprint(results[0]), dpi=110)
    page = self_contained(TITLE, text, {FIGURE: paths[2].read_bytes()})
    write_text(paths[1], page.replace("</h1>", f"</h1>\n{board(results)}", 1))
    return paths


def _page(results: Sequence[SuiteResult], gains: Gains, beside: Mapping[str, str]) -> str:
    """Write the page in Markdown, given the first result's gains over methods without a term."""
    first = results[0]
    tasks, control = first.spec.tasks, _headline_gains(first, CONTROL)
    sections = []
    for name in tasks:
        sections += [f"### {task(name).title}", task(name).summary]
        sections += [task_table(result, name).render("markdown") for result in results if name in result.spec.tasks]
    template = Template(Path(__file__).with_name("leaderboard.md").read_text(encoding="utf-8"))
    return template.substitute(
        title=TITLE,
        version=first.spec.suite_version,
        n_methods=len(methods_of(results)),
        n_tasks=len(tasks),
        n_seeds=len(first.spec.seeds),
        n_trials=f"{sum(len(result.trials) for result in results):,}",
        n_steps=f"{first.spec.n_steps:,}",
        minutes=f"{sum(trial.seconds for result in results for trial in result.trials) / 60:.0f}",
        ranking=ranking_table(results).render("markdown"),
        beside="\n\n".join(f"## {title}\n\n{words.strip()}" for title, words in beside.items()),
        figure=FIGURE,
        range=RANGE,
        gains=_rows(gains, tasks),
        no_help="\n".join(f"- **{task(name).title}.** {_no_help(name, gains)}." for name in with_mechanism(tasks)),
        with_skip=with_skip(results),
        over_control=_rows({name: of for name, of in control.items() if _term(name) != NO_TERM}, tasks),
        task_by_task="\n\n".join(sections),
    )


def _headline_gains(result: SuiteResult, term: str) -> Gains:
    """Compute the gain of each method over the same architecture trained with another term, where the result has it."""
    found = methods_of([result])
    rivals = {name: f"{_architecture(name)}-{term}" for name in found if _term(name) in TERMS and _term(name) != term}
    return {
        name: {of: difference(found, of, name, rival).scores.get("headline") for of in result.spec.tasks}
        for name, rival in rivals.items()
        if rival in found
    }


def _architecture(name: str) -> str:
    return name.rpartition("-")[0]


def _term(name: str) -> str:
    return name.rpartition("-")[2]


def _rows(gains: Gains, tasks: Sequence[str]) -> str:
    table = Table(["method", *tasks], [[name, *of.values()] for name, of in gains.items()], caption="")
    return table.render("markdown").strip()


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
    for name in with_mechanism(result.spec.tasks):
        groups: dict[str, dict[str, Interval]] = {}
        for method, of in gains.items():
            gain = of[name]
            if gain is not None:
                low, high = gain.drawn
                drawn = gain.model_copy(update={"low": low, "high": high})
                groups.setdefault(_architecture(method), {})[_term(method)] = drawn
        panels.append(IntervalPanel(task(name).title, groups))
    return intervals_figure(panels, "headline, less that without a term")
