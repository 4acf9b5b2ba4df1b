"""The table of an ensemble speed result, from the result alone."""

from pathlib import Path

from faithfulness_plugin.benchmarks.timing.ensemble_speed.schema import EnsembleSpeedResult, Line, Quartiles
from faithfulness_plugin.results.markdown import markdown_table
from faithfulness_plugin.results.schema import write_text

TABLE_FILENAME = "table.md"


def write_report(result: EnsembleSpeedResult, out: Path) -> list[Path]:
    """Writes table.md into `out`; returns its path."""
    write_text(out / TABLE_FILENAME, table(result))
    return [out / TABLE_FILENAME]


def table(result: EnsembleSpeedResult) -> str:
    """One objective a row, and the lines."""
    c = result.config
    rows = [
        [
            of.objective,
            _quartiles(of.loop, 2),
            _quartiles(of.ensemble, 3),
            _quartiles(of.ratio, 1),
            _quartiles(of.gigaflops, 1),
            _quartiles(of.share_of_peak, 2),
        ]
        for of in result.compared
    ]
    header = [
        "objective",
        "train_transcoder, ms a model and step",
        "train_ensemble, ms",
        "ratio",
        "GFLOP/s in matrix products",
        "share of peak",
    ]
    caption = (
        f"{c.n_models} transcoders (d_in 16, d_sae 64, batch 256) of different seeds, {c.n_steps} steps, set-up "
        f"included, both in one process with {c.threads} thread{'s' * (c.threads > 1)} of {result.processor}, torch "
        f"{result.environment.packages['torch']}. Medians over {c.rounds} rounds (quartiles). Peak: one product of "
        f"matrices {c.peak_size:,} wide, single precision. {' '.join(_line(line) for line in result.lines)}"
    )
    return f"{markdown_table(header, rows)}\n\n{caption}\n"


def _line(line: Line) -> str:
    return (
        f"Over {line.over} ({line.numbers[0]} to {line.numbers[-1]}) time grows by {1e3 * line.slope:.2f} ms each, "
        f"from {line.intercept:.2f} s, along a straight line (R² {line.r_squared:.4f})."
    )


def _quartiles(of: Quartiles, digits: int) -> str:
    return f"{of.median:.{digits}f} ({of.low:.{digits}f} to {of.high:.{digits}f})"
