"""Tables as people use them: on a terminal, in Markdown, in LaTeX, and as CSV."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import override

from faithfulness_plugin.display import NotebookTable, line
from faithfulness_plugin.extras import require_extra
from faithfulness_plugin.results.markdown import interval_text, markdown_table
from faithfulness_plugin.results.schema import Interval

if TYPE_CHECKING:
    import pandas as pd

Format = Literal["markdown", "latex", "csv"]
FORMATS: tuple[Format, ...] = ("markdown", "latex", "csv")


@dataclass(frozen=True)
class Table(NotebookTable):
    """Words and intervals; a cell that is not there is None, or says why."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | Interval | None]]
    caption: str

    def __repr__(self) -> str:
        return line("Table", {"header": list(self.header), "rows": len(self.rows)})

    @override
    def to_frame(self) -> "pd.DataFrame":
        """Return the cells as text."""
        import pandas as pd

        return pd.DataFrame(self.cells(digits=3), columns=list(self.header))

    def render(self, form: Format) -> str:
        """Format the table.

        CSV has each interval's mean, bounds and number in columns of their own, and for fewer than 5 values the least
        and the largest in place of the bounds; LaTeX is booktabs.

        Args:
            form: which format.

        Returns:
            The text; without the caption in CSV.
        """
        if form == "csv":
            return self._csv()
        cells = self.cells(digits=3)
        if form == "markdown":
            return f"{markdown_table(self.header, cells)}\n\n{self.caption}\n"
        require_extra("bench", "jinja2")
        import pandas as pd

        frame = pd.DataFrame([[_tex(cell) for cell in row] for row in cells], columns=[_tex(h) for h in self.header])
        return frame.to_latex(index=False, caption=_tex(self.caption), position="t")

    def to_dict(self) -> dict[str, Any]:
        """Convert the table for JSON.

        Returns:
            Header, rows (an interval by its fields) and caption.
        """
        rows = [[cell.model_dump() if isinstance(cell, Interval) else cell for cell in row] for row in self.rows]
        return {"header": list(self.header), "rows": rows, "caption": self.caption}

    def cells(self, digits: int) -> list[list[str]]:
        """Format the rows as text.

        Args:
            digits: digits after the point, in intervals.

        Returns:
            One list a row; "—" for a cell that is None.
        """
        return [
            ["—" if cell is None else cell if isinstance(cell, str) else interval_text(cell, digits) for cell in row]
            for row in self.rows
        ]

    def _csv(self) -> str:
        import pandas as pd

        records = []
        for row in self.rows:
            record: dict[str, object] = {}
            for name, cell in zip(self.header, row, strict=True):
                if isinstance(cell, Interval):
                    low, high = (cell.low, cell.high) if cell.seen is None else (None, None)
                    least, most = cell.seen or (None, None)
                    fields = {"mean": cell.mean, "low": low, "high": high, "n": cell.n}
                    fields |= {} if cell.seen is None else {"least": least, "largest": most}
                    record |= {f"{name} {field}": value for field, value in fields.items()}
                else:
                    record[name] = cell
            records.append(record)
        return pd.DataFrame(records).to_csv(index=False, lineterminator="\n")


TEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "<": r"$<$", ">": r"$>$", "—": "---"}
TEX |= {char: "\\" + char for char in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def _tex(text: str) -> str:
    """Escape what LaTeX reads as commands."""
    return "".join(TEX.get(char, char) for char in text)
