"""The table of the measurement."""

import statistics

from faithfulness_plugin.benchmarks.timing.store_speed.schema import StoreSpeedResult, Together
from faithfulness_plugin.results.markdown import markdown_table


def table(result: StoreSpeedResult) -> str:
    """Rates, ratios, and how equal the results are."""
    c, (half, one, two) = result.config, result.together
    stored, live = statistics.median(result.from_store), statistics.median(result.from_model)
    ratios = [a / b for a, b in zip(result.from_store, result.from_model, strict=True)]
    apart = max(abs(a - b) / abs(a) for a, b in zip(one.losses, two.losses, strict=True))
    rows = [
        ["filling the store (model, layer, Jv)", f"{result.filling:,.0f} rows a second"],
        ["the store's size", f"{(result.bytes_per_row or 0) / 1e3:.1f} kB a row ({c.model.dtype})"],
        ["training from the model", f"{live:,.0f} tokens a second"],
        ["training from the store", f"{stored:,.0f} tokens a second"],
        ["store / model, paired", f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"],
        ["weights, from the store and from the layer asked again", f"equal up to {result.difference:.1e}"],
        *([_told(of), f"{of.rows_per_second:,.0f} rows a second"] for of in result.together),
        [f"{_told(two)} / {_told(half)}", f"{two.rows_per_second / half.rows_per_second:.2f}"],
        [f"{_told(two)} / {_told(one)}", f"{two.rows_per_second / one.rows_per_second:.2f}"],
        ["losses, 2 processes and 1", f"equal up to {apart:.1e} over {len(one.losses)} steps"],
    ]
    where = (
        f"{result.model}, block {c.block}; TopK k {c.k} of {c.d_sae}, jvp with difference probes, batches of "
        f"{c.batch_size}; {c.n_steps} steps, median of {c.rounds} rounds, {c.threads} threads ({result.processor}). "
        f"Processes: batches of {c.together_batch_size} rows in all."
    )
    return where + "\n\n" + markdown_table(["what", "measured"], rows)


def _told(of: Together) -> str:
    processes = f"{of.processes} process{'es' * (of.processes > 1)}"
    return f"{processes} of {of.threads} thread{'s' * (of.threads > 1)}"
