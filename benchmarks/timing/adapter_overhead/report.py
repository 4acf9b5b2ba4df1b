"""The table of what the term costs within other libraries' trainers."""

import statistics
from collections.abc import Sequence

from faithfulness_plugin.benchmarks.timing.adapter_overhead.schema import OverheadResult
from faithfulness_plugin.results.markdown import markdown_table


def table(results: Sequence[OverheadResult]) -> str:
    """A row a library and term: medians over rounds, with the least and the largest of the paired ratios."""
    rows = []
    for result in results:
        measured = [timings for timings in (result.step, result.loop) if timings is not None]
        library = result.config.library
        rows.append([library, "alone", *(cell for t in measured for cell in (_milliseconds(t.alone), "1"))])
        for name in measured[0].matched:
            cells = [
                cell for t in measured for cell in (_milliseconds(t.matched[name]), _ratio(t.matched[name], t.alone))
            ]
            rows.append([library, name, *cells])
    c = results[0].config
    where = (
        f"TopK k {c.k} of {c.d_sae} features, {c.rows} rows a step, a SwiGLU layer of {c.d} x {c.d_mlp}; {c.rounds} "
        f"rounds of {c.n_steps} steps in turns, {c.threads} threads ({results[0].processor}). The step alone is on "
        "rows at hand (for sparsify, which always runs a model: on one of a single block); the whole loop has the run "
        "of the examples' model in it, as users train."
    )
    header = ["library", "term", "step alone, ms", "beside the library", "whole loop, ms", "beside the library"]
    return where + "\n\n" + markdown_table(header, rows)


def _milliseconds(seconds: Sequence[float]) -> str:
    return f"{1e3 * statistics.median(seconds):.0f}"


def _ratio(matched: Sequence[float], alone: Sequence[float]) -> str:
    ratios = [a / b for a, b in zip(matched, alone, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
