"""The audit's table: published values beside means and prediction intervals, from the result alone."""

from collections.abc import Sequence
from pathlib import Path

from faithfulness_plugin.benchmarks.note.audit.schema import COLUMNS, PUBLISHED, AuditResult
from faithfulness_plugin.results.intervals import prediction_interval
from faithfulness_plugin.results.markdown import markdown_table
from faithfulness_plugin.results.schema import write_text

TABLE_FILENAME = "table.md"
ROWS = {
    "validation_loss": ("validation loss", 5),
    "sparsity": ("sparsity", 5),
    "m_unnormalised": ("memorization, unnormalised p", 3),
    "m": ("memorization, the note's", 4),
    "fvu": ("FVU", 4),
}


def values(result: AuditResult, column: str, name: str) -> list[float]:
    """Of a column's runs."""
    return [getattr(run, name) for run in result.runs if run.column == column]


def inside(result: AuditResult) -> dict[tuple[str, str], bool]:
    """For each published value, whether it lies in our 95 % prediction interval: where one more run would fall."""
    verdicts = {}
    for column, published in PUBLISHED.items():
        for name, value in published.items():
            low, high = prediction_interval(values(result, column, name))
            verdicts[column, name] = low <= value <= high
    return verdicts


def table(result: AuditResult) -> str:
    """Published value, our mean and prediction interval, by row and column."""
    columns = [column for column in COLUMNS if values(result, column, "m")]
    verdicts = inside(result) if result.complete and len(result.config.seeds) > 1 else {}

    def cell(column: str, name: str, digits: int) -> str:
        of = values(result, column, name)
        ours = _with_interval(of, digits)
        if name not in PUBLISHED.get(column, {}):
            return ours
        mark = "" if verdicts.get((column, name), True) else " (outside)"
        return f"published {PUBLISHED[column][name]:.{digits}f}{mark}; ours {ours}"

    rows = [[label, *(cell(column, name, digits) for column in columns)] for name, (label, digits) in ROWS.items()]
    return markdown_table(["", *(COLUMNS[column] for column in columns)], rows)


def caption(result: AuditResult) -> str:
    """How it was made."""
    c = result.config
    partial = "" if result.complete else " PARTIAL."
    return (
        f"d {c.d_in}, {c.d_hidden} features, AdamW at {c.lr:g} with weight decay {c.weight_decay:g}, {c.n_steps:,} "
        f"steps of {c.batch_size}, {c.n_train:,} training rows of density 1, p with {c.n_ones} ones in "
        f"{c.repeat_frac:.0%} of them, means of squared error and of tanh(5 h) with weight "
        f"{c.sparsity_coefficient:g}, Jacobian term {c.jacobian_coefficient:g}, {len(c.seeds)} seeds.{partial} Ours: "
        "mean [95 % prediction interval: where one more run would fall]. Validation loss on clean rows; sparsity on "
        "the last training batch."
    )


def write_report(result: AuditResult, out: Path) -> list[Path]:
    """Writes table.md into `out`; returns its path."""
    write_text(out / TABLE_FILENAME, f"{table(result)}\n\n{caption(result)}\n")
    return [out / TABLE_FILENAME]


def _with_interval(of: Sequence[float], digits: int) -> str:
    mean = sum(of) / len(of)
    if len(of) < 2:
        return f"{mean:.{digits}f}"
    low, high = prediction_interval(of)
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
