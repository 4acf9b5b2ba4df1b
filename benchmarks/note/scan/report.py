"""The table of a scan, from its result alone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter

from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult, Trained
from faithfulness_plugin.benchmarks.note.scan.spec import Value
from faithfulness_plugin.benchmarks.note.toy_records import EMERGED
from faithfulness_plugin.results.intervals import RANGE, interval, share
from faithfulness_plugin.results.markdown import interval_text, markdown_table, share_text
from faithfulness_plugin.results.schema import Interval

Read = Callable[[Trained], float]

METRICS: dict[str, Read] = {
    "m / max": attrgetter("metrics.m_fraction"),
    "FVU": attrgetter("metrics.fvu"),
    "effective L0": attrgetter("metrics.effective_l0"),
    "plain L0": attrgetter("metrics.l0"),
    "Jacobian error": attrgetter("metrics.jacobian_error"),
    "circuits recovered": attrgetter("metrics.recovered"),
}
DIGITS = {"m / max": 3, "FVU": 4, "effective L0": 3, "Jacobian error": 4, "circuits recovered": 1}


def over_seeds(trained: Sequence[Trained], read: Read) -> Interval:
    """Return a number's mean and 95 % interval over transcoders that differ in their seed."""
    return interval([read(t) for t in trained])


def cells(result: ScanResult) -> dict[tuple[str, tuple[Value, ...]], list[Trained]]:
    """Return what was trained by arm and the grid's values; all seeds of a cell together."""
    found: dict[tuple[str, tuple[Value, ...]], list[Trained]] = {}
    for trained in result.trained:
        found.setdefault((trained.arm, tuple(trained.values.values())), []).append(trained)
    return found


def emerged(trained: Sequence[Trained]) -> int:
    """Count those that memorise: m above a tenth of its maximum."""
    return sum(t.metrics.m_fraction > EMERGED for t in trained)


def seeds_table(
    labels: Sequence[str],
    rows: Iterable[tuple[Sequence[str], Sequence[Trained]]],
    columns: Mapping[str, tuple[Read, int]],
) -> str:
    """Return a table of (texts under the labels, transcoders of several seeds): each column is (what to read, digits),
    its mean and interval over the seeds."""
    return markdown_table(
        [*labels, *columns],
        [[*texts, *(interval_text(over_seeds(of, read), n) for read, n in columns.values())] for texts, of in rows],
    )


def table(result: ScanResult) -> str:
    """Return the scan's table, a row for each cell."""
    rows = [
        ([arm, *map(number, values), share_text(share(emerged(of), len(of)))], of)
        for (arm, values), of in cells(result).items()
    ]
    columns = {name: (METRICS[name], digits) for name, digits in DIGITS.items()}
    partial = "" if result.complete else f" PARTIAL: {len(result.trained)} of {result.spec.n_points} transcoders."
    seeds = f"{result.spec.seeds} seed{'s' * (result.spec.seeds > 1)} a row"
    caption = (
        f"{seeds}; means and 95 % intervals (Student's t), {RANGE}; counts with Wilson's.{partial} Emergence: m above "
        "a tenth of its maximum. Jacobian error: relative; for |x| over the columns with x != 0."
    )
    return f"{seeds_table(['arm', *result.spec.grid, 'emergence'], rows, columns)}\n\n{caption}\n"


def number(value: Value) -> str:
    """Return a setting's value as tables and messages show it."""
    return f"{value:g}" if isinstance(value, float) else str(value)
