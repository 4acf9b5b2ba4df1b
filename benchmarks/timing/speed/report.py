"""The table of a speed result, from the result alone: ratios first."""

from pathlib import Path

from faithfulness_plugin.benchmarks.timing.speed.schema import Ratio, SpeedResult
from faithfulness_plugin.results.markdown import markdown_table
from faithfulness_plugin.results.schema import write_text

TABLE_FILENAME = "table.md"


def write_report(result: SpeedResult, out: Path) -> list[Path]:
    """Writes table.md into `out`; returns its path."""
    write_text(out / TABLE_FILENAME, tables(result))
    return [out / TABLE_FILENAME]


def tables(result: SpeedResult) -> str:
    """Ratios, times and peak memory, one column a size, with a caption."""
    c = result.config
    sizes = {size.name: size for size in c.sizes}
    measured = [sizes[of.size] for of in result.sizes]
    shapes = "; ".join(
        f"{s.name}: d {s.d:,}, d_sae {s.d_sae:,}, k {s.k}, batch {s.batch:,}, SwiGLU layer {s.d_mlp:,}"
        for s in measured
    )
    where = (
        f"{c.threads} thread{'s' * (c.threads > 1)} of {result.processor}"
        if c.device == "cpu"
        else result.environment.device
    )
    partial = "" if result.complete else f" PARTIAL: {len(result.sizes)} of {len(c.sizes)} sizes."
    caption = (
        f"{shapes}. On {where}, torch {result.environment.packages['torch']}.{partial} A step is "
        "`training_forward_pass` and its backward pass, f(x) and J_f v known beforehand (their cost: the rows of the "
        f"layer). Ratios are medians over {c.rounds} rounds of one process, each pairing the two arms, with quartiles; "
        f"the arms that take seconds ran in {c.slow_rounds}. A pass per coordinate: {c.coordinates} coordinates timed, "
        f"extrapolated to d. Exact cosines: a row, by vmap(jacrev) of {c.jacobian_rows} rows, by Gram of the batch "
        "with its matrices made beforehand. Memory: peak of a fresh process after three steps, libraries included.\n"
    )
    return "\n\n".join([ratio_table(result), time_table(result), memory_table(result), caption])


def ratio_table(result: SpeedResult) -> str:
    """Medians with quartiles."""
    return _table("ratio", [{r.name: _ratio(r) for r in of.ratios} for of in result.sizes], result)


def time_table(result: SpeedResult) -> str:
    """Medians in milliseconds."""
    return _table("milliseconds", [{t.arm: _milliseconds(t.median) for t in of.timings} for of in result.sizes], result)


def memory_table(result: SpeedResult) -> str:
    """Peaks in MiB."""
    cells = [{peak.arm: f"{peak.mebibytes:,.0f}" for peak in of.memory} for of in result.sizes]
    return _table("peak memory, MiB", cells, result)


def _table(title: str, cells: list[dict[str, str]], result: SpeedResult) -> str:
    """One column a size; what was not run there stays empty."""
    names = dict.fromkeys(name for column in cells for name in column)
    rows = [[name, *(column.get(name, "") for column in cells)] for name in names]
    return markdown_table([title, *(of.size for of in result.sizes)], rows)


def _milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:.2f}" if value < 1 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _ratio(ratio: Ratio) -> str:
    digits = 2 if ratio.median < 10 else 0
    if ratio.low == ratio.high:
        return f"{ratio.median:,.{digits}f}"
    return f"{ratio.median:,.{digits}f} ({ratio.low:,.{digits}f} to {ratio.high:,.{digits}f})"
