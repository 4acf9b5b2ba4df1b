"""Tables and figures of the absolute-value experiment, from its result alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from faithfulness_plugin.benchmarks.figures.circuit_projection import ProjectionPanel, circuit_projection_figure
from faithfulness_plugin.benchmarks.figures.jacobian_at_point import jacobian_at_point
from faithfulness_plugin.benchmarks.figures.memorization_by_condition import memorization_by_condition
from faithfulness_plugin.benchmarks.note.absolute_value.schema import AbsoluteValueResult, ConditionSummary, Run
from faithfulness_plugin.results.figure_file import save_figure
from faithfulness_plugin.results.markdown import interval_text, markdown_table, share_text
from faithfulness_plugin.results.schema import ResultError, fingerprint, write_text

TABLE_FILENAME = "table.md"
BRIEF_CONDITIONS = ("baseline", "repetition", "jacobian")
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


def write_report(result: AbsoluteValueResult, out: Path) -> list[Path]:
    """Writes table.md and the PNG figures into `out`; returns their paths. A partial result gives what it can."""
    write_text(out / TABLE_FILENAME, tables(result))
    paths = [out / TABLE_FILENAME]
    if result.runs:
        source = fingerprint(result)
        figures = {
            "circuit_projection.png": _projection_figure(result),
            "jacobian_at_point.png": _jacobian_figure(result),
            "memorization.png": _memorization_figure(result),
        }
        for name, figure in figures.items():
            try:
                save_figure(figure, out / name, source=source)
            except OSError as error:
                raise ResultError(f"{out / name} cannot be written ({error.strerror}): move it away") from error
            paths.append(out / name)
    return paths


def tables(result: AbsoluteValueResult) -> str:
    """Both tables with their captions, as Markdown."""
    c = result.config
    runs = "" if result.complete else f" PARTIAL: {len(result.runs)} of {len(result.conditions) * len(c.seeds)} runs."
    setting = (
        f"d_in {c.d_in}, d_sae {c.d_sae}, density {c.density:g}, p with {c.n_ones} ones repeated in "
        f"{c.repeat_frac:.0%} of the rows, {c.sparsity_title}, {c.n_steps:,} steps of "
        f"{c.batch_size}, {len(c.seeds)} seed{'s' * (len(c.seeds) > 1)}."
    )
    interval = "Mean and 95 % interval over seeds (Student's t)." if len(c.seeds) > 1 else "One seed: no intervals."
    return "\n\n".join(
        [
            f"{brief_table(result)}",
            f"{full_table(result)}",
            f"{setting} {interval} Measured on clean rows, circuits recovered on rows that hold p.{runs} Effective "
            f"L0 of the layer itself: {result.layer_l0:.3g}; circuits of the layer: {2 * c.d_in}. Jacobian error: "
            "relative, over the columns with x != 0 (at the kink |x| has no derivative). Emergence: seeds with m above "
            "a tenth of its maximum, 95 % Wilson interval.\n",
        ]
    )


def brief_table(result: AbsoluteValueResult) -> str:
    """Validation loss (mean squared error per coordinate) and sparsity (mean tanh(5 a)), as the brief has them."""
    titles = _titles(result)
    shown = [s for s in result.summary if s.condition in BRIEF_CONDITIONS]
    header = ["", *(titles[s.condition] for s in shown)]
    loss = ["Validation loss", *(interval_text(s.metrics["validation_loss"], 5) for s in shown)]
    sparsity = ["Sparsity", *(interval_text(s.metrics["sparsity"], 5) for s in shown)]
    return markdown_table(header, [loss, sparsity])


def full_table(result: AbsoluteValueResult) -> str:
    """Every condition, with the metrics of `COLUMNS` and the emergence count."""
    titles = _titles(result)

    def row(summary: ConditionSummary) -> list[str]:
        cells = [interval_text(summary.metrics[name], digits) for name, (_, digits) in COLUMNS.items()]
        return [titles[summary.condition], *cells, share_text(summary.emergence)]

    header = ["condition", *(label for label, _ in COLUMNS.values()), "emergence"]
    return markdown_table(header, [row(summary) for summary in result.summary])


def beyond_table(results: Sequence[AbsoluteValueResult]) -> str:
    """Several settings, one a row; per condition the seeds with memorization, the largest m / max, mean FVU and L0."""
    titles = _titles(results[0])

    def row(result: AbsoluteValueResult) -> list[str]:
        c = result.config
        setting = (
            f"d_in {c.d_in}, d_sae {c.d_sae}, {c.n_ones} ones, density {c.density:g}, "
            f"{c.sparsity_title}, seeds {c.seeds[0]} to {c.seeds[-1]}"
        )
        largest = {s.condition: 0.0 for s in result.summary}
        for r in result.runs:
            largest[r.condition] = max(largest[r.condition], r.metrics.m_fraction)
        cells = {
            s.condition: f"{s.emergence.count} of {s.emergence.n} (to {largest[s.condition]:.2f}); "
            f"FVU {s.metrics['fvu'].mean:.4f}; L0 {s.metrics['effective_l0'].mean:.2f}"
            for s in result.summary
        }
        return [setting, *(cells[name] for name in titles)]

    return markdown_table(["setting", *titles.values()], [row(result) for result in results])


def _projection_figure(result: AbsoluteValueResult) -> Figure:
    seed, shown = _one_seed(result)
    panels = {
        title: ProjectionPanel(np.array(r.projection.weights), np.array(r.projection.residual))
        for title, r in shown.items()
    }
    return circuit_projection_figure(panels, result.circuits, f"What the features are made of (seed {seed})")


def _jacobian_figure(result: AbsoluteValueResult) -> Figure:
    seed, shown = _one_seed(result)
    n, d = result.config.n_ones, result.config.d_in
    layer = np.diag([1.0] * n + [0.0] * (d - n))
    jacobians = {title: np.array(r.jacobian_at_point) for title, r in shown.items()}
    return jacobian_at_point(jacobians, layer, n, f"Jacobians at p (seed {seed})")


def _memorization_figure(result: AbsoluteValueResult) -> Figure:
    fractions = {
        title: [r.metrics.m_fraction for r in result.runs if r.condition == name]
        for name, title in _titles(result).items()
    }
    return memorization_by_condition({title: values for title, values in fractions.items() if values})


def _one_seed(result: AbsoluteValueResult) -> tuple[int, dict[str, Run]]:
    """The first seed that has a run, and its runs by title."""
    seed = next(s for s in result.config.seeds if any(r.seed == s for r in result.runs))
    titles = _titles(result)
    return seed, {titles[r.condition]: r for r in result.runs if r.seed == seed}


def _titles(result: AbsoluteValueResult) -> dict[str, str]:
    return {condition.name: condition.title for condition in result.conditions}
