"""The public reproduction beside its own configuration, repeated."""

from itertools import pairwise

from faithfulness_plugin.benchmarks.figures.published import Beside, published_beside_ours
from faithfulness_plugin.benchmarks.note.audit import report
from faithfulness_plugin.benchmarks.note.audit.schema import COLUMNS, PUBLISHED, AuditResult
from faithfulness_plugin.benchmarks.note.page.section import Drawn, Section, joined
from faithfulness_plugin.results.intervals import interval, prediction_interval

SHOWN = {
    "validation_loss": "validation loss",
    "sparsity": "sparsity",
    "m_unnormalised": "memorization, unnormalised p",
}


def section(result: AuditResult) -> Section:
    """The table, the intervals, and what the inert term does."""
    verdicts = report.inside(result)
    outside = [f"{SHOWN[name]} of {column}" for (column, name), ok in verdicts.items() if not ok]
    panels = {
        title: {
            COLUMNS[column]: Beside(
                values := report.values(result, column, name),
                *prediction_interval(values),
                PUBLISHED.get(column, {}).get(name),
            )
            for column in COLUMNS
        }
        for name, title in SHOWN.items()
    }
    difference = max(check.difference for check in result.inert)
    with_gradient = min(check.difference_with_gradient for check in result.inert)
    term = sum(check.term for check in result.inert) / len(result.inert)
    steps = result.config.n_compared
    differing = _differing(result)
    largest = max(run.m for run in result.runs)
    return Section(
        name="audit",
        title="The public reproduction, audited",
        claim="In the published configuration the published differences between columns are differences between seeds.",
        falsifier="A published value outside the 95 % prediction interval of its own column, or two neighbouring "
        "columns that differ over our seeds (paired 95 % interval without 0).",
        verdict=(
            "All published values lie inside our intervals. "
            if not outside
            else f"Outside our intervals: {joined(outside)}; the other {len(verdicts) - len(outside)} published "
            "values lie inside. "
        )
        + (f"Columns that do differ: {'; '.join(differing)}." if differing else "No two neighbouring columns differ."),
        finding=f"The reproduction's Jacobian term has a value ({term:.3f} on average over the first {steps} steps) "
        "and no gradient. With the same batches, training with it and without it gives the same weights: the largest "
        f"difference after {steps} steps is {difference:g}, over {len(result.inert)} seeds. With the term's gradient "
        f"kept it is at least {with_gradient:.3f}. What changes in the published third column is the state of the "
        "random generator, from which the term draws.",
        table=report.table(result),
        caveat=report.caption(result)
        + " Details that the published code leaves to its libraries are as those have them; how it shuffles is not "
        "published as a number, so that random streams differ from ours. Prediction intervals assume a normal "
        "distribution, which m, never negative, has not. The largest m of all runs by the note's metric is "
        f"{largest:.3f} of a maximum of {result.config.n_ones**0.5 - 1:.3f}; {result.config.d_hidden} features stand "
        f"where |x| takes {2 * result.config.d_in}.",
        figures={
            "audit.png": Drawn(
                published_beside_ours(panels),
                "Published values as crosses over our runs and prediction intervals, per column",
            )
        },
    )


def _differing(result: AuditResult) -> list[str]:
    """Neighbouring columns whose paired differences over seeds are not centred on 0."""
    said = []
    for before, after in pairwise(COLUMNS):
        for name in ("validation_loss", "sparsity", "m"):
            pairs = zip(report.values(result, before, name), report.values(result, after, name), strict=True)
            difference = interval([b - a for a, b in pairs])
            if difference.low is not None and difference.high is not None and difference.low * difference.high > 0:
                said.append(
                    f"{report.ROWS[name][0]} from {COLUMNS[before]} to {COLUMNS[after]} by {difference.mean:+.4f} "
                    f"[{difference.low:+.4f}, {difference.high:+.4f}]"
                )
    return said
