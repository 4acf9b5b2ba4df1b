"""The audit's table: published values beside means and prediction intervals, from the result alone."""

from collections.abc import Sequence

from faithfulness_plugin.benchmarks.note.audit.schema import ARMS, PUBLISHED, AuditResult
from faithfulness_plugin.results.intervals import prediction_interval
from faithfulness_plugin.results.markdown import markdown_table

ROWS = {
    "validation_loss": ("validation loss", 5),
    "sparsity": ("sparsity", 5),
    "m_unnormalised": ("memorization, unnormalised p", 3),
    "m": ("memorization, the note's", 4),
    "fvu": ("FVU", 4),
}


def values(result: AuditResult, arm: str, name: str) -> list[float]:
    """Collect a number of an arm's runs.

    Args:
        result: the audit's.
        arm: a key of `ARMS`.
        name: a field of `AuditRun`.

    Returns:
        The number of each run, in the order of seeds.
    """
    return [getattr(run, name) for run in result.runs if run.column == arm]


def inside(result: AuditResult) -> dict[tuple[str, str], bool]:
    """Decide for each published value whether it lies in our 95 % prediction interval: where one more run would fall.

    Args:
        result: the audit's, with two seeds or more of each published arm.

    Returns:
        {(arm, field of `AuditRun`): whether it lies inside}.
    """
    verdicts = {}
    for arm, published in PUBLISHED.items():
        for name, value in published.items():
            low, high = prediction_interval(values(result, arm, name))
            verdicts[arm, name] = low <= value <= high
    return verdicts


def table(result: AuditResult) -> str:
    """Tabulate published values beside our means and prediction intervals.

    Args:
        result: the audit's, complete or partial.

    Returns:
        Markdown: a row for each number of `ROWS`, a column for each arm that has runs. Published values outside the
        interval are marked once all is run.
    """
    arms = [arm for arm in ARMS if values(result, arm, "m")]
    verdicts = inside(result) if result.complete and len(result.config.seeds) > 1 else {}

    def cell(arm: str, name: str, digits: int) -> str:
        ours = _with_interval(values(result, arm, name), digits)
        if name not in PUBLISHED.get(arm, {}):
            return ours
        mark = "" if verdicts.get((arm, name), True) else " (outside)"
        return f"published {PUBLISHED[arm][name]:.{digits}f}{mark}; ours {ours}"

    rows = [[label, *(cell(arm, name, digits) for arm in arms)] for name, (label, digits) in ROWS.items()]
    return markdown_table(["", *(ARMS[arm] for arm in arms)], rows)


def caption(result: AuditResult) -> str:
    """Describe the setting, and how the table is to be read.

    Args:
        result: the audit's, complete or partial.

    Returns:
        A paragraph.
    """
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


def _with_interval(of: Sequence[float], digits: int) -> str:
    mean = f"{sum(of) / len(of):.{digits}f}"
    if len(of) < 2:
        return mean
    low, high = prediction_interval(of)
    return f"{mean} [{low:.{digits}f}, {high:.{digits}f}]"
