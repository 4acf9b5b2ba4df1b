"""One page as an image or as HTML: a figure, and a table below it."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from faithfulness_plugin import atomic
from faithfulness_plugin.results.curves import Panel, draw_curves
from faithfulness_plugin.results.html_page import self_contained
from faithfulness_plugin.results.markdown import interval_text
from faithfulness_plugin.results.schema import Interval, ResultError
from faithfulness_plugin.results.tables import Table

KINDS = (".png", ".pdf", ".svg", ".html")


class CardError(ValueError):
    """A card that cannot be made; the message says what to do."""


def write_page(
    path: Path, title: str, figure: Callable[[bool], Figure], table: Table, *, described: str, source: str
) -> None:
    """Writes the page in the format that the file's name ends in, all or nothing.

    Args:
        figure: with the table in it, or without: the HTML page has the table as text.
        described: what the figure shows, for those who do not see it.
        source: a fingerprint of the result, for the image.

    Raises:
        CardError: no such format.
        ResultError: the file cannot be written.
    """
    if path.suffix not in KINDS:
        raise CardError(f"--out {path}: let its name end in {', '.join(KINDS)}")
    try:
        if path.suffix == ".html":
            text = f"# {title}\n\n![{described}](card.png)\n\n{table.render('markdown')}"
            atomic.write_text(path, self_contained(title, text, {"card.png": _image(figure(False), ".png", source)}))
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}")
        unfinished.write_bytes(_image(figure(True), path.suffix, source))
        unfinished.replace(path)
    except OSError as error:
        raise ResultError(f"{path} cannot be written ({error.strerror}): choose another --out") from error


def page_figure(
    title: str, panels: Sequence[Panel], columns: int, table: Table | None, widths: Sequence[float] = ()
) -> Figure:
    """All panels, and below them the table if there is one, its columns as wide as `widths` says (in parts of 1)."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    drawn, listed = 3.1 * rows + 0.6, 0.0 if table is None else 0.32 * len(table.rows) + 1.0
    width = max(4.1 * columns + 0.3, 0.0 if table is None else 15.0)
    figure = Figure(figsize=(width, drawn + 0.5 + listed), layout="constrained")
    figure.suptitle(title, fontsize=13)
    if table is None:
        draw_curves(figure, panels, columns)
        return figure
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[drawn, listed]))
    draw_curves(above, panels, columns)
    ax = below.subplots()
    ax.set_axis_off()
    cells = [[_short(text) for text in row] for row in table.rows]
    listing = ax.table(cells, colLabels=list(table.header), colWidths=list(widths), cellLoc="center", bbox=[0, 0, 1, 1])
    listing.auto_set_font_size(False)
    listing.set_fontsize(8)
    for (row, _), box in listing.get_celld().items():
        box.set_edgecolor("0.85")
        box.visible_edges = "B"
        if row == 0:
            box.get_text().set_fontweight("bold")
    return figure


def _short(cell: str | Interval | None) -> str:
    return "—" if cell is None else cell if isinstance(cell, str) else interval_text(cell, 2)


def _image(figure: Figure, kind: str, source: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Software": None, "Source": source} if kind == ".png" else None
    figure.savefig(buffer, format=kind[1:], dpi=130, metadata=metadata)
    return buffer.getvalue()
