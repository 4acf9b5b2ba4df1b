"""One page about a method: what it keeps at the layers' own L0, and along its sweeps."""

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from faithfulness_plugin import atomic
from faithfulness_plugin.benchmarks.html_page import self_contained
from faithfulness_plugin.benchmarks.markdown import interval_text
from faithfulness_plugin.benchmarks.schema import Interval, ResultError, fingerprint
from faithfulness_plugin.benchmarks.statistics import interval
from faithfulness_plugin.benchmarks.suite.at_layer_l0 import at_layer_l0
from faithfulness_plugin.benchmarks.suite.report import SHOWN, cell, failures, reached_text
from faithfulness_plugin.benchmarks.suite.schema import SuiteResult
from faithfulness_plugin.benchmarks.suite.tables import Table
from faithfulness_plugin.benchmarks.tasks.registry import task
from faithfulness_plugin.figures.curves import Curve, Panel, draw_curves
from faithfulness_plugin.nearest import nearest

KINDS = (".png", ".pdf", ".svg", ".html")
COLUMNS = 4


class CardError(ValueError):
    """A card that cannot be made; the message says what to do."""


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
    if path.suffix not in KINDS:
        raise CardError(f"--out {path}: let its name end in {', '.join(KINDS)}")
    try:
        if path.suffix == ".html":
            image = _image(card_figure(result, method, against, with_table=False), result, ".png")
            text = f"# {_title(result, method)}\n\n![Headline against L0, task by task](card.png)\n\n"
            text += card_table(result, method).render("markdown")
            atomic.write_text(path, self_contained(_title(result, method), text, {"card.png": image}))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f".{path.name}")
            unfinished.write_bytes(_image(card_figure(result, method, against), result, path.suffix))
            unfinished.replace(path)
    except OSError as error:
        raise ResultError(f"{path} cannot be written ({error.strerror}): choose another --out") from error


def card_table(result: SuiteResult, method: str) -> Table:
    """The method's scores, task by task."""
    found = [at_layer_l0(result, name, method) for name in result.spec.tasks]
    rows = [
        [of.task, f"{result.layer_l0[of.task]:.2f}", reached_text(of), *(cell(of, score) for score in SHOWN)]
        for of in found
    ]
    caption = (
        f"Scores of {method} at each layer's own L0: mean and 95 % interval over seeds. Headline: 1 says that the "
        "mechanism is kept, 0 that the shortcut is; for the shuffled layer, circuits found by chance."
    )
    return Table(["task", "layer's L0", "seeds there", *SHOWN.values()], rows, caption)


def card_figure(result: SuiteResult, method: str, against: str = "", *, with_table: bool = True) -> Figure:
    """The headline against L0, task by task, and below it the table."""
    panels = [_panel(result, name, [method, *([against] if against else [])]) for name in result.spec.tasks]
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    drawn, listed = 3.1 * rows + 0.6, 0.32 * (len(panels) + 1) + 0.7
    width = max(4.1 * columns + 0.3, 15.0 if with_table else 0.0)
    figure = Figure(figsize=(width, drawn + 0.5 + (listed if with_table else 0)), layout="constrained")
    figure.suptitle(_title(result, method), fontsize=13)
    if not with_table:
        draw_curves(figure, panels, columns)
        return figure
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[drawn, listed]))
    draw_curves(above, panels, columns)
    table = card_table(result, method)
    ax = below.subplots()
    ax.set_axis_off()
    cells = [[_short(text) for text in row] for row in table.rows]
    widths = [0.12, 0.06, 0.07, 0.2, *[0.55 / (len(table.header) - 4)] * (len(table.header) - 4)]
    listing = ax.table(cells, colLabels=list(table.header), colWidths=widths, cellLoc="center", bbox=[0, 0, 1, 1])
    listing.auto_set_font_size(False)
    listing.set_fontsize(8)
    for (row, _), box in listing.get_celld().items():
        box.set_edgecolor("0.85")
        box.visible_edges = "B"
        if row == 0:
            box.get_text().set_fontweight("bold")
    return figure


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
    """Means over seeds, strength by strength, in the order of L0; the band is the headline's interval."""
    points = []
    for strength in next(m.strengths for m in result.spec.methods if m.name == method):
        scores = [t.scores for t in result.of(name, method) if t.strength == strength and t.scores is not None]
        if scores:
            headline = interval([s.headline for s in scores])
            low, high = (headline.mean if bound is None else bound for bound in (headline.low, headline.high))
            points.append((sum(s.l0 for s in scores) / len(scores), headline.mean, low, high))
    if not points:
        return None
    return Curve(*map(list, zip(*sorted(points), strict=True)))


def _short(cell: str | Interval | None) -> str:
    return "—" if cell is None else cell if isinstance(cell, str) else interval_text(cell, 2)


def _title(result: SuiteResult, method: str) -> str:
    seeds = len(result.spec.seeds)
    return f"Faithfulness card: {method} ({seeds} seed{'s' * (seeds > 1)}, benchmark {result.spec.suite_version})"


def _image(figure: Figure, result: SuiteResult, kind: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Software": None, "Source": fingerprint(result)} if kind == ".png" else None
    figure.savefig(buffer, format=kind[1:], dpi=130, metadata=metadata)
    return buffer.getvalue()
