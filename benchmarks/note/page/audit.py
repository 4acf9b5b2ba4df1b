"""The public reproduction beside its own configuration, repeated."""

from itertools import pairwise
from typing import Any

from faithfulness_plugin.benchmarks.figures.published import Beside, published_beside_ours
from faithfulness_plugin.benchmarks.note.audit import report
from faithfulness_plugin.benchmarks.note.audit.schema import ARMS, PUBLISHED, AuditResult
from faithfulness_plugin.benchmarks.note.page.section import Section
from faithfulness_plugin.results.intervals import interval, prediction_interval

SHOWN = {
    "validation_loss": "validation loss",
    "sparsity": "sparsity",
    "m_unnormalised": "memorization, unnormalised p",
}


def section(result: AuditResult) -> Section:
    """Compare the published values with the configuration's own runs, and show what the inert term does.

    Args:
        result: the audit's.

    Returns:
        The table, the prediction intervals, and the weights' differences with and without the term.
    """
    config, verdicts = result.config, report.inside(result)
    panels = {
        title: {
            ARMS[arm]: Beside(
                values := report.values(result, arm, name),
                *prediction_interval(values),
                PUBLISHED.get(arm, {}).get(name),
            )
            for arm in ARMS
        }
        for name, title in SHOWN.items()
    }
    return Section(
        "audit",
        {
            "outside": [f"{SHOWN[name]} of {arm}" for (arm, name), inside in verdicts.items() if not inside],
            "n_inside": sum(verdicts.values()),
            "differing": _differing(result),
            "term": sum(check.term for check in result.inert) / len(result.inert),
            "n_checks": len(result.inert),
            "difference": max(check.difference for check in result.inert),
            "with_gradient": min(check.difference_with_gradient for check in result.inert),
            "config": config,
            "caption": report.caption(result),
            "largest": max(run.m for run in result.runs),
            "maximum": config.n_ones**0.5 - 1,
        },
        report.table(result),
        {"audit.png": published_beside_ours(panels)},
    )


def _differing(result: AuditResult) -> list[dict[str, Any]]:
    """Find neighbouring arms whose paired differences over seeds are not centred on 0."""
    found = []
    for before, after in pairwise(ARMS):
        for name in ("validation_loss", "sparsity", "m"):
            pairs = zip(report.values(result, before, name), report.values(result, after, name), strict=True)
            by = interval([b - a for a, b in pairs])
            if by.low is not None and by.high is not None and by.low * by.high > 0:
                found.append({"what": report.ROWS[name][0], "before": ARMS[before], "after": ARMS[after], "by": by})
    return found
