"""The table of a scan, from its result alone."""

from collections.abc import Callable, Sequence

from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult, Trained
from faithfulness_plugin.benchmarks.note.scan.spec import Value
from faithfulness_plugin.benchmarks.note.toy_problem import EMERGED
from faithfulness_plugin.results.intervals import RANGE, interval, share
from faithfulness_plugin.results.markdown import interval_text, markdown_table, share_text

COLUMNS: dict[str, tuple[Callable[[Trained], float], int]] = {
    "m / max": (lambda t: t.metrics.m_fraction, 3),
    "FVU": (lambda t: t.metrics.fvu, 4),
    "effective L0": (lambda t: t.metrics.effective_l0, 3),
    "Jacobian error": (lambda t: t.metrics.jacobian_error, 4),
    "circuits recovered": (lambda t: float(t.metrics.recovered), 1),
}


def cells(result: ScanResult) -> dict[tuple[str, tuple[Value, ...]], list[Trained]]:
    """What was trained, by arm and the grid's values; all seeds of a cell together."""
    found: dict[tuple[str, tuple[Value, ...]], list[Trained]] = {}
    for trained in result.trained:
        found.setdefault((trained.arm, tuple(trained.values.values())), []).append(trained)
    return found


def emerged(trained: Sequence[Trained]) -> int:
    """How many memorise: m above a tenth of its maximum."""
    return sum(t.metrics.m_fraction > EMERGED for t in trained)


def table(result: ScanResult) -> str:
    """One row a cell: means and 95 % intervals over seeds."""
    header = ["arm", *result.spec.grid, "emergence", *COLUMNS]
    rows = [
        [
            arm,
            *(f"{value:g}" if isinstance(value, float) else str(value) for value in values),
            share_text(share(emerged(of), len(of))),
            *(interval_text(interval([read(t) for t in of]), digits) for read, digits in COLUMNS.values()),
        ]
        for (arm, values), of in cells(result).items()
    ]
    partial = "" if result.complete else f" PARTIAL: {len(result.trained)} of {result.spec.n_points} transcoders."
    seeds = f"{result.spec.seeds} seed{'s' * (result.spec.seeds > 1)} a row"
    caption = (
        f"{seeds}; means and 95 % intervals (Student's t), {RANGE}; counts with Wilson's.{partial} Emergence: m above "
        "a tenth of its maximum. Jacobian error: relative; for |x| over the columns with x != 0."
    )
    return f"{markdown_table(header, rows)}\n\n{caption}\n"
