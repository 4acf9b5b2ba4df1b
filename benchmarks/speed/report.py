"""The table of a speed result, from the result alone: ratios first."""

from pathlib import Path

from faithfulness_plugin.benchmarks.markdown import markdown_table
from faithfulness_plugin.benchmarks.schema import write_text
from faithfulness_plugin.benchmarks.speed.schema import Ratio, SizeResult, SpeedResult

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
    rows = [
        [name, *(_ratio(of.ratios[i]) for of in result.sizes)]
        for i, name in enumerate(ratio.name for ratio in _first(result).ratios)
    ]
    return markdown_table(["ratio", *_names(result)], rows) if result.sizes else ""


def time_table(result: SpeedResult) -> str:
    """Medians in milliseconds."""
    rows = [
        [timing.arm, *(_milliseconds(of.timings[i].median) for of in result.sizes)]
        for i, timing in enumerate(_first(result).timings)
    ]
    return markdown_table(["milliseconds", *_names(result)], rows) if result.sizes else ""


def memory_table(result: SpeedResult) -> str:
    """Peaks in MiB."""
    rows = [
        [peak.arm, *(f"{of.memory[i].mebibytes:,.0f}" for of in result.sizes)]
        for i, peak in enumerate(_first(result).memory)
    ]
    return markdown_table(["peak memory, MiB", *_names(result)], rows) if result.sizes else ""


def _first(result: SpeedResult) -> SizeResult:
    return result.sizes[0] if result.sizes else SizeResult(size="", timings=[], ratios=[], memory=[])


def _names(result: SpeedResult) -> list[str]:
    return [of.size for of in result.sizes]


def _milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:.2f}" if value < 1 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _ratio(ratio: Ratio) -> str:
    digits = 2 if ratio.median < 10 else 0
    if ratio.low == ratio.high:
        return f"{ratio.median:,.{digits}f}"
    return f"{ratio.median:,.{digits}f} ({ratio.low:,.{digits}f} to {ratio.high:,.{digits}f})"
