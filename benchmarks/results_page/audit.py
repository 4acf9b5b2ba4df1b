"""The public reproduction beside its own configuration, repeated."""

from faithfulness_plugin.benchmarks.audit import report
from faithfulness_plugin.benchmarks.audit.schema import COLUMNS, PUBLISHED, AuditResult
from faithfulness_plugin.benchmarks.results_page.section import Drawn, Section, joined
from faithfulness_plugin.benchmarks.statistics import prediction_interval
from faithfulness_plugin.figures.published import Beside, published_beside_ours

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
    overlap = all(
        max(low) <= min(high)
        for name in ("validation_loss", "m")
        if (bounds := [prediction_interval(report.values(result, column, name)) for column in COLUMNS])
        for low, high in [zip(*bounds, strict=True)]
    )
    return Section(
        name="audit",
        title="The public reproduction, audited",
        claim="In the published configuration the published differences between columns are differences between seeds.",
        falsifier="A published validation loss or sparsity outside the 95 % prediction interval of its own column, "
        "or columns whose intervals for validation loss and m do not overlap.",
        verdict=(
            "All published values lie inside our intervals"
            if not outside
            else f"Outside our intervals: {joined(outside)}; the other {len(verdicts) - len(outside)} published "
            "values lie inside"
        )
        + (". The columns' intervals overlap." if overlap else ". The columns' intervals do not all overlap."),
        finding=f"The reproduction's Jacobian term has a value ({term:.3f} on average over the first {steps} steps) "
        "and no gradient. With the same batches, training with it and without it gives the same weights: the largest "
        f"difference after {steps} steps is {difference:g}, over {len(result.inert)} seeds. With the term's gradient "
        f"kept it is at least {with_gradient:.3f}. What changes in the published third column is the state of the "
        "random generator, from which the term draws.",
        table=report.table(result),
        caveat=report.caption(result)
        + " Details that the published code leaves to its libraries are as those have them; how it shuffles is not "
        "published as a number, so that random streams differ from ours. The configuration has 48 features where |x| "
        "takes 64, and a penalty at which no column memorises by the note's metric: it cannot show the phenomenon.",
        figures={
            "audit.png": Drawn(
                published_beside_ours(panels),
                "Published values as crosses over our runs and prediction intervals, per column",
            )
        },
    )
