import io

import pytest
from rich.console import Console

from faithfulness_plugin.cli.drawn_tables import drawn
from faithfulness_plugin.results.markdown import markdown_table

HEADER = ["transcoder", "FVU", "Jacobian error, data", "response error, half-way", "CE recovered", "y = |x|"]
ROWS = [[name, "0.12 ± 0.01", "0.50 ± 0.02", "0.43 ± 0.01", "0.912", "7"] for name in ("mine", "its shuffled decoder")]


def at(width: int, rows: list[list[str]] = ROWS) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)
    for part in drawn(f"{markdown_table(HEADER, rows)}\n\nA *caption*.\n", width):
        console.print(part)
    return console.file.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_every_cell_stands_whole_within_the_width(width):
    lines = at(width)
    assert all(len(line) <= width for line in lines)
    assert not any(line.startswith("|") for line in lines)
    text = "\n".join(lines)
    for cell in (*HEADER, *ROWS[0], *ROWS[1], "A caption."):
        assert cell in text


def test_a_wide_terminal_has_a_line_for_each_row_and_a_narrow_one_a_column():
    assert sum("0.912" in line for line in at(200)) == 2
    assert sum(line.count("0.912") == 2 for line in at(80)) == 1


def test_many_rows_are_cut_into_tables_of_the_width():
    lines = at(80, [[f"transcoder {n}", *ROWS[0][1:]] for n in range(9)])
    assert all(len(line) <= 80 for line in lines)
    assert sum(line.count("0.912") for line in lines) == 9
