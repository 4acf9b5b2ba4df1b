"""Tables and figures of the docs, from the committed result files and nothing else: `make docs`."""

from pathlib import Path

from faithfulness_plugin.benchmarks.absolute_value.report import beyond_table, tables, write_report
from faithfulness_plugin.benchmarks.absolute_value.schema import AbsoluteValueResult
from faithfulness_plugin.benchmarks.result_file import RESULT_FILENAME
from faithfulness_plugin.benchmarks.schema import read_result, write_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
RESULT = RESULTS / "absolute_value" / RESULT_FILENAME


def measured() -> dict[str, str]:
    """Each table by the name of its place in the README."""
    beyond = [read_result(path, AbsoluteValueResult) for path in sorted(RESULTS.glob(f"beyond/*/{RESULT_FILENAME}"))]
    return {
        "absolute-value table": tables(read_result(RESULT, AbsoluteValueResult)),
        "beyond table": beyond_table(beyond),
    }


def filled_in(readme: str, name: str, table: str) -> str:
    """The text with what stands between the markers `begin: name` and `end: name` replaced.

    Raises ValueError where a marker is missing."""
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    before, found_begin, rest = readme.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"the README has no {begin} ... {end}")
    return f"{before}{begin}\n\n{table.strip()}\n\n{end}{after}"


def main() -> None:
    """Rewrites table.md and the figures beside each committed result, and the tables in README.md."""
    for path in RESULTS.rglob(RESULT_FILENAME):
        write_report(read_result(path, AbsoluteValueResult), path.parent)
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    for name, table in measured().items():
        text = filled_in(text, name, table)
    write_text(path, text)


if __name__ == "__main__":
    main()
