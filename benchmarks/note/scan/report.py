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
    """Compute a number's mean and 95 % interval over transcoders that differ in their seed.

    Args:
        trained: the transcoders, at least one.
        read: reads the number off one of them.

    Returns:
        Student's t interval, with the range of fewer than 5 seeds.
    """
    return interval([read(t) for t in trained])


def cells(result: ScanResult) -> dict[tuple[str, tuple[Value, ...]], list[Trained]]:
    """Group what was trained by arm and the grid's values; all seeds of a cell come together.

    Args:
        result: the scan's.

    Returns:
        {(arm, values of the grid's settings in their order): transcoders}.
    """
    found: dict[tuple[str, tuple[Value, ...]], list[Trained]] = {}
    for trained in result.trained:
        found.setdefault((trained.arm, tuple(trained.values.values())), []).append(trained)
    return found


def emerged(trained: Sequence[Trained]) -> int:
    """Count those that memorise: m above a tenth of its maximum.

    Args:
        trained: transcoders.

    Returns:
        How many of them do.
    """
    return sum(t.metrics.m_fraction > EMERGED for t in trained)


def seeds_table(
    labels: Sequence[str],
    rows: Iterable[tuple[Sequence[str], Sequence[Trained]]],
    columns: Mapping[str, tuple[Read, int]],
) -> str:
    """Tabulate means and intervals over seeds.

    Args:
        labels: headers of the first columns.
        rows: for each row the texts under the labels, and its transcoders, which differ in their seed.
        columns: for each further column, by header, what is read off a transcoder, and the digits after the point.

    Returns:
        Markdown.
    """
    return markdown_table(
        [*labels, *columns],
        [[*texts, *(interval_text(over_seeds(of, read), n) for read, n in columns.values())] for texts, of in rows],
    )


def table(result: ScanResult) -> str:
    """Tabulate a scan, with a caption.

    Args:
        result: the scan's, complete or partial.

    Returns:
        Markdown: a row for each cell that has transcoders.
    """
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
    """Format a setting's value as tables and messages show it.

    Args:
        value: of any setting.

    Returns:
        Its text, a float's without trailing zeros.
    """
    return f"{value:g}" if isinstance(value, float) else str(value)
