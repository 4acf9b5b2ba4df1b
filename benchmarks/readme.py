"""Writes the measured tables into README.md, from the committed result file: `make docs`."""

from pathlib import Path

from faithfulness_plugin.benchmarks.absolute_value.experiment import RESULT_FILENAME
from faithfulness_plugin.benchmarks.absolute_value.report import tables
from faithfulness_plugin.benchmarks.absolute_value.schema import AbsoluteValueResult
from faithfulness_plugin.benchmarks.schema import read_result, write_text

BEGIN, END = "<!-- begin: absolute-value table -->", "<!-- end: absolute-value table -->"
ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "absolute_value" / RESULT_FILENAME


def filled_in(readme: str, table: str) -> str:
    """The text with what stands between the two markers replaced. Raises ValueError where a marker is missing."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the README has no {BEGIN!r} ... {END!r}")
    return f"{before}{BEGIN}\n\n{table.strip()}\n\n{END}{after}"


def main() -> None:
    """Rewrites README.md in place."""
    readme = ROOT / "README.md"
    text = filled_in(readme.read_text(encoding="utf-8"), tables(read_result(RESULT, AbsoluteValueResult)))
    write_text(readme, text)


if __name__ == "__main__":
    main()
