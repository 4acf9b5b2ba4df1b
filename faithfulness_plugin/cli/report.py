"""The command `faithfulness report`."""

from pathlib import Path
from typing import Annotated

import typer

from faithfulness_plugin.extras import require_extra
from faithfulness_plugin.messages import say


def report(
    results: Annotated[Path, typer.Option(help="Folder with a result per preset")] = Path("benchmarks/results/toy"),
    out: Annotated[Path | None, typer.Option(help="Folder for the page [default: that of the results]")] = None,
) -> None:
    """Write the results page: every experiment with its claim, what would refute it, figure, numbers and command.

    Makes report.md with its figures, and report.html, the same in one file. Every number is read off the result files.
    """
    from faithfulness_plugin.benchmarks.note.page.results import read_results
    from faithfulness_plugin.results.open_or_resume import require_writable

    require_extra("bench", "jinja2", "markdown_it", "statsmodels")
    read_results(results)
    require_writable(out or results, "--out")

    from faithfulness_plugin.benchmarks.note.page.page import write_page

    say("written: " + ", ".join(str(path) for path in write_page(results, out or results)))
