"""A card: one page about one arm of a result, as an image or as HTML."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.results.curves import Panel, draw_curves
from faithfulness_plugin.results.figure_file import save_figure
from faithfulness_plugin.results.html_page import self_contained
from faithfulness_plugin.results.schema import write_text
from faithfulness_plugin.results.tables import Table

SUFFIXES = (".png", ".pdf", ".svg", ".html")
DPI = 130


class Card(NamedTuple):
    """Panels of curves above a table."""

    title: str
    described: str
    """What the panels show, for readers who do not see them."""
    panels: Sequence[Panel]
    n_columns: int
    """Panels in a row."""
    table: Table
    first_widths: Sequence[float]
    """Widths of the table's first columns, in parts of 1; the others share the rest equally."""
    source: str
    """The result's fingerprint, which the image carries."""

    def write(self, path: Path) -> None:
        """Write the card, all or nothing, in the format of the file's suffix; HTML has the table as text.

        Args:
            path: the file.

        Raises:
            UsageError: the suffix is none of .png, .pdf, .svg and .html.
            ResultError: the file cannot be written.
        """
        if path.suffix not in SUFFIXES:
            raise UsageError(f"--out {path}: let its name end in {', '.join(SUFFIXES)}")
        if path.suffix != ".html":
            save_figure(self.figure(), path, source=self.source, dpi=DPI)
            return
        image = io.BytesIO()
        self.figure(with_table=False).savefig(image, format="png", dpi=DPI, metadata={"Software": None})
        text = f"# {self.title}\n\n![{self.described}](card.png)\n\n{self.table.render('markdown')}"
        write_text(path, self_contained(self.title, text, {"card.png": image.getvalue()}))

    def figure(self, *, with_table: bool = True) -> Figure:
        """Draw the panels and, below them, the table.

        Args:
            with_table: whether the table is drawn.

        Returns:
            The figure.
        """
        columns = min(self.n_columns, len(self.panels))
        drawn = 3.1 * -(-len(self.panels) // columns) + 0.6
        listed = 0.32 * len(self.table.rows) + 1.0 if with_table else 0.0
        width = max(4.1 * columns + 0.3, 15.0 if with_table else 0.0)
        figure = Figure(figsize=(width, drawn + 0.5 + listed), layout="constrained")
        figure.suptitle(self.title, fontsize=13)
        if not with_table:
            draw_curves(figure, self.panels, columns)
            return figure
        above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[drawn, listed]))
        draw_curves(above, self.panels, columns)
        self._draw_table(below.subplots())
        return figure

    def _draw_table(self, ax) -> None:
        ax.set_axis_off()
        header = list(self.table.header)
        n_others = len(header) - len(self.first_widths)
        widths = [*self.first_widths, *[(1 - sum(self.first_widths)) / max(1, n_others)] * n_others]
        drawn = ax.table(
            self.table.cells(digits=2), colLabels=header, colWidths=widths, cellLoc="center", bbox=[0, 0, 1, 1]
        )
        drawn.auto_set_font_size(False)
        drawn.set_fontsize(8)
        for (row, _), cell in drawn.get_celld().items():
            cell.set_edgecolor("0.85")
            cell.visible_edges = "B"
            if row == 0:
                cell.get_text().set_fontweight("bold")
