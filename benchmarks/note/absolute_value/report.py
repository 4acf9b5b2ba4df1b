"""Tables and figures of the absolute-value experiment, from its result alone."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from faithfulness_plugin.benchmarks.figures.circuit_projection import ProjectionPanel, circuit_projection_figure
from faithfulness_plugin.benchmarks.figures.jacobian_at_point import jacobian_at_point
from faithfulness_plugin.benchmarks.figures.memorization_by_arm import memorization_by_arm
from faithfulness_plugin.benchmarks.note.absolute_value.schema import AbsoluteValueResult, ArmSummary
from faithfulness_plugin.results.markdown import interval_text, markdown_table, share_text

BRIEF = ("baseline", "repetition", "jacobian")
COLUMNS = {
    "m": ("m", 3),
    "m_fraction": ("m / max", 3),
    "fvu": ("FVU", 4),
    "l0": ("L0", 3),
    "effective_l0": ("effective L0", 3),
    "jacobian_error": ("Jacobian error", 4),
    "off_diagonal_energy": ("off-diagonal energy at p", 4),
    "recovered": ("circuits recovered", 1),
}


def tables(result: AbsoluteValueResult) -> str:
    """Write both tables with their captions.

    Args:
        result: the experiment's, complete or partial.

    Returns:
        Markdown.
    """
    c = result.config
    runs = "" if result.complete else f" PARTIAL: {len(result.runs)} of {len(result.conditions) * len(c.seeds)} runs."
    setting = (
        f"d_in {c.d_in}, d_sae {c.d_sae}, density {c.density:g}, p with {c.n_ones} ones repeated in "
        f"{c.repeat_frac:.0%} of the rows, {c.sparsity_title}, {c.n_steps:,} steps of "
        f"{c.batch_size}, {len(c.seeds)} seed{'s' * (len(c.seeds) > 1)}."
    )
    interval = "Mean and 95 % interval over seeds (Student's t)." if len(c.seeds) > 1 else "One seed: no intervals."
    caption = (
        f"{setting} {interval} Measured on clean rows, circuits recovered on rows that hold p.{runs} Effective "
        f"L0 of the layer itself: {result.layer_l0:.3g}; circuits of the layer: {2 * c.d_in}. Jacobian error: "
        "relative, over the columns with x != 0 (at the kink |x| has no derivative). Emergence: seeds with m above "
        "a tenth of its maximum, 95 % Wilson interval.\n"
    )
    return "\n\n".join([brief_table(result), full_table(result), caption])


def brief_table(result: AbsoluteValueResult) -> str:
    """Tabulate validation loss (mean squared error per coordinate) and sparsity (mean tanh(5 a)) of three arms.

    Args:
        result: the experiment's.

    Returns:
        Markdown: a row for each of the two, a column for each arm of `BRIEF` that has runs.
    """
    titles = _titles(result)
    shown = [s for s in result.summary if s.condition in BRIEF]
    rows = [
        [label, *(interval_text(s.metrics[name], 5) for s in shown)]
        for name, label in (("validation_loss", "Validation loss"), ("sparsity", "Sparsity"))
    ]
    return markdown_table(["", *(titles[s.condition] for s in shown)], rows)


def full_table(result: AbsoluteValueResult) -> str:
    """Tabulate every arm, with the metrics of `COLUMNS` and the emergence count.

    Args:
        result: the experiment's.

    Returns:
        Markdown: a row for each arm that has runs.
    """
    titles = _titles(result)

    def row(summary: ArmSummary) -> list[str]:
        cells = [interval_text(summary.metrics[name], digits) for name, (_, digits) in COLUMNS.items()]
        return [titles[summary.condition], *cells, share_text(summary.emergence)]

    header = ["arm", *(label for label, _ in COLUMNS.values()), "emergence"]
    return markdown_table(header, [row(summary) for summary in result.summary])


def beyond_table(results: Sequence[AbsoluteValueResult]) -> str:
    """Tabulate several settings; per arm the seeds with memorization, the largest m / max, mean FVU and L0.

    Args:
        results: one for each setting, all with the same arms.

    Returns:
        Markdown: a row for each setting, a column for each arm.
    """
    titles = _titles(results[0])

    def row(result: AbsoluteValueResult) -> list[str]:
        c = result.config
        setting = (
            f"d_in {c.d_in}, d_sae {c.d_sae}, {c.n_ones} ones, density {c.density:g}, "
            f"{c.sparsity_title}, seeds {c.seeds[0]} to {c.seeds[-1]}"
        )
        cells = {
            s.condition: f"{s.emergence.count} of {s.emergence.n} (to {max(_fractions(result, s.condition)):.2f}); "
            f"FVU {s.metrics['fvu'].mean:.4f}; L0 {s.metrics['effective_l0'].mean:.2f}"
            for s in result.summary
        }
        return [setting, *(cells[name] for name in titles)]

    return markdown_table(["setting", *titles.values()], [row(result) for result in results])


def figures(result: AbsoluteValueResult) -> dict[str, Figure]:
    """Draw the figures; those of single runs show the first seed that has one.

    Args:
        result: the experiment's; a partial one gives what it can.

    Returns:
        The figures by file name; none where nothing was run.
    """
    if not result.runs:
        return {}
    titles, n, d = _titles(result), result.config.n_ones, result.config.d_in
    seed = next(s for s in result.config.seeds if any(r.seed == s for r in result.runs))
    runs = {titles[r.condition]: r for r in result.runs if r.seed == seed}
    projections = {
        title: ProjectionPanel(np.array(r.projection.weights), np.array(r.projection.residual))
        for title, r in runs.items()
    }
    jacobians = {title: np.array(r.jacobian_at_point) for title, r in runs.items()}
    layer = np.diag([1.0] * n + [0.0] * (d - n))
    fractions = {title: values for name, title in titles.items() if (values := _fractions(result, name))}
    return {
        "circuit_projection.png": circuit_projection_figure(
            projections, result.circuits, f"What the features are made of (seed {seed})"
        ),
        "jacobian_at_point.png": jacobian_at_point(jacobians, layer, n, f"Jacobians at p (seed {seed})"),
        "memorization.png": memorization_by_arm(fractions),
    }


def _fractions(result: AbsoluteValueResult, arm: str) -> list[float]:
    return [r.metrics.m_fraction for r in result.runs if r.condition == arm]


def _titles(result: AbsoluteValueResult) -> dict[str, str]:
    return {arm.name: arm.title for arm in result.conditions}
