"""One page about a method: what it keeps at the layers' own L0, and along its sweeps."""

from pathlib import Path

from matplotlib.figure import Figure

from faithfulness_plugin.benchmarks.suite.at_layer_l0 import at_layer_l0
from faithfulness_plugin.benchmarks.suite.report import SHOWN, cell, failures, reached_text
from faithfulness_plugin.benchmarks.suite.schema import SuiteResult
from faithfulness_plugin.benchmarks.tasks.registry import task
from faithfulness_plugin.nearest import nearest
from faithfulness_plugin.results.card_page import CardError, page_figure, write_page
from faithfulness_plugin.results.curves import Curve, Panel
from faithfulness_plugin.results.intervals import RANGE, interval
from faithfulness_plugin.results.schema import fingerprint
from faithfulness_plugin.results.tables import Table

COLUMNS = 4


def write_card(result: SuiteResult, method: str, against: str, path: Path) -> None:
    """Writes the page in the format that the file's name ends in, all or nothing.

    Args:
        method: may be empty where the result has one only.
        against: another method of the result, drawn beside it; or empty.

    Raises:
        CardError: no such method, none of its trials has scores, or no such format.
        ResultError: the file cannot be written.
    """
    names = [m.name for m in result.spec.methods]
    if not method and len(names) > 1:
        raise CardError(f"the result holds {len(names)} methods: pass --method, such as {names[0]}")
    method = method or names[0]
    for name in (method, *([against] if against else [])):
        if name not in names:
            raise CardError(f"the result has no method {name!r}: {nearest(name, names, n=3)}")
        if not any(result.of(of, name) for of in result.spec.tasks):
            raise CardError(f"no trial of {name} has scores: {next(iter(failures(result)), 'run it first')}")
    write_page(
        path,
        _title(result, method),
        lambda with_table: card_figure(result, method, against, with_table=with_table),
        card_table(result, method),
        described="Headline against L0, task by task",
        source=fingerprint(result),
    )


def card_table(result: SuiteResult, method: str) -> Table:
    """The method's scores, task by task."""
    found = [at_layer_l0(result, name, method) for name in result.spec.tasks]
    rows = [
        [of.task, f"{result.layer_l0[of.task]:.2f}", reached_text(of), *(cell(of, score) for score in SHOWN)]
        for of in found
    ]
    caption = (
        f"Scores of {method} at each layer's own L0: mean and 95 % interval over seeds, {RANGE}. Headline: 1 says "
        "that the mechanism is kept, 0 that the shortcut is; for the shuffled layer, circuits found by chance."
    )
    return Table(["task", "layer's L0", "seeds there", *SHOWN.values()], rows, caption)


def card_figure(result: SuiteResult, method: str, against: str = "", *, with_table: bool = True) -> Figure:
    """The headline against L0, task by task, and below it the table."""
    panels = [_panel(result, name, [method, *([against] if against else [])]) for name in result.spec.tasks]
    table = card_table(result, method) if with_table else None
    others = 0 if table is None else len(table.header) - 4
    return page_figure(
        _title(result, method), panels, COLUMNS, table, [0.12, 0.06, 0.07, 0.2, *[0.55 / max(1, others)] * others]
    )


def _panel(result: SuiteResult, name: str, methods: list[str]) -> Panel:
    curves = {method: curve for method in methods if (curve := _sweep(result, name, method)) is not None}
    return Panel(
        task(name).title,
        curves,
        "effective L0",
        "headline",
        marks={"the layer": result.layer_l0[name]},
        ylim=(-0.05, 1.05) if task(name).keeps != "nothing" else (-0.05, 0.5),
    )


def _sweep(result: SuiteResult, name: str, method: str) -> Curve | None:
    """Means over seeds, strength by strength, in the order of L0; the band is the headline's interval, or the range of
    a few seeds."""
    points = []
    for strength in next(m.strengths for m in result.spec.methods if m.name == method):
        scores = [t.scores for t in result.of(name, method) if t.strength == strength and t.scores is not None]
        if scores:
            headline = interval([s.headline for s in scores])
            points.append((sum(s.l0 for s in scores) / len(scores), headline.mean, *headline.drawn))
    if not points:
        return None
    return Curve(*map(list, zip(*sorted(points), strict=True)))


def _title(result: SuiteResult, method: str) -> str:
    seeds = len(result.spec.seeds)
    return f"Faithfulness card: {method} ({seeds} seed{'s' * (seeds > 1)}, benchmark {result.spec.suite_version})"
