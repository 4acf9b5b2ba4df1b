"""Markdown with pipe tables, drawn for the width of a terminal."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from rich import box
from rich.console import RenderableType
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

BETWEEN = 2
"""Columns of the terminal between two of a table's."""


def drawn(markdown: str, width: int) -> Iterator[RenderableType]:
    """Lay out tables and text. A table that is too wide is turned, a column for each of its rows, and cut into as many
    tables as it takes.

    Args:
        markdown: tables and text.
        width: columns of the terminal.

    Yields:
        What to print, part by part.
    """
    for is_table, lines in groupby(markdown.splitlines(), lambda line: line.startswith("|")):
        if is_table:
            header, _, *rows = map(_cells, lines)
            yield from _tables(header, rows, width)
        else:
            yield Markdown("\n".join(lines))


def _cells(line: str) -> list[str]:
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])]


def _tables(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[RenderableType]:
    if _needs([header, *rows]) <= width or not rows:
        yield _table(header, rows)
        return
    values = list(rows)
    while values:
        n = next((n for n in range(len(values), 1, -1) if _needs(_turned(header, values[:n])) <= width), 1)
        lines = _turned(header, values[:n])
        yield _table(lines[0], lines[1:])
        values = values[n:]
        if values:
            yield Text()


def _turned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    return list(zip(header, *rows, strict=True))


def _needs(lines: Sequence[Sequence[str]]) -> int:
    """Return the width of a table of these lines."""
    columns = list(zip(*lines, strict=True))
    return sum(max(map(len, column)) for column in columns) + BETWEEN * len(columns)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, BETWEEN, 0, 0))
    for number, name in enumerate(header):
        table.add_column(Text(name), justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table
