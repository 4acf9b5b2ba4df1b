"""Tables of the experiment with every layer replaced, a line an arm."""

from faithfulness_plugin.attribution.agreement import STATISTICS
from faithfulness_plugin.attribution.truth import BANDS
from faithfulness_plugin.benchmarks.whole_model.analysis import (
    ALL_FEATURES,
    CAUSES,
    ON,
    SCORES,
    SETS,
    Cause,
    Number,
    distances,
    interventions,
    truth,
)
from faithfulness_plugin.benchmarks.whole_model.arms import SetArm
from faithfulness_plugin.benchmarks.whole_model.schema import WholeModelResult
from faithfulness_plugin.results.markdown import interval_text, markdown_table
from faithfulness_plugin.results.schema import Interval


def tables(result: WholeModelResult) -> str:
    """Format all tables.

    Args:
        result: complete or partial.

    Returns:
        Markdown.
    """
    done, wanted = len(result.sets), len(result.config.runs())
    parts = [] if result.complete else [f"PARTIAL: {done} of {wanted} sets."]
    if result.sets:
        parts += [_of_sets(result)]
        parts += [_of_truth(result, cause) for cause in CAUSES]
        parts += [_by_distance(result)]
        if any(of.graphs for of in result.sets):
            parts += [_of_scores(result)]
    return "\n\n".join(parts) + "\n"


def arms_of(result: WholeModelResult) -> list[SetArm]:
    """List the arms in the order of the settings.

    Args:
        result: complete or partial.

    Returns:
        Those with a set.
    """
    config, have = result.config, {of.arm for of in result.sets}
    return [arm for arm in (*config.arms, *config.side_arms) if arm in have]


def overview(result: WholeModelResult) -> str:
    """Format how true graphs are, in one table.

    Args:
        result: complete or partial.

    Returns:
        Markdown.
    """
    columns = [truth("rank correlation", cause, on) for cause in CAUSES for on in ON]
    names = [f"{cause.name} on {called}" for cause in CAUSES for called in ON.values()]
    return _table(result, columns, names)


def _table(result: WholeModelResult, columns: list[Number], names: list[str] | None = None) -> str:
    header = ["arm", "seeds", *(names or [column.name for column in columns])]
    rows = []
    for arm in arms_of(result):
        cells = [_text(column.mean(result, arm), column.digits) for column in columns]
        rows.append([arm.name, str(len(result.of(arm))), *cells])
    return markdown_table(header, rows)


def _text(of: Interval | None, digits: int) -> str:
    return "—" if of is None or of.mean != of.mean else interval_text(of, digits)


def _of_sets(result: WholeModelResult) -> str:
    config = result.config
    without = f", {len(result.missing)} others stay as they are" if result.missing else ""
    worst = max(of.with_errors for of in result.sets)
    sparse = {round(layer.l0) for of in result.sets for layer in of.layers}
    ties = (
        " (TopK jumps where rounding decides which of two features fires)" if config.kind.architecture == "topk" else ""
    )
    return (
        f"**The sets.** {len(result.blocks)} layers replaced{without}; {config.kind.name}, {config.d_sae:,} features a "
        f"layer, {config.tokens:,} tokens each; L0 {' to '.join(map(str, sorted({min(sparse), max(sparse)})))}. FVU "
        "and Jacobian error along pairs are means over layers, at the inputs of the model as it is; KL and ΔCE are "
        f"nats a token, with all layers replaced at once, on {config.held_out_prompts} held-out prompts. Mean ± half "
        "of the 95 % interval over prompts and seeds. With error nodes, no logit of any set is further from the "
        f"model's than {worst:.1g} of their rms{ties}.\n\n{_table(result, list(SETS))}"
    )


def _of_truth(result: WholeModelResult, cause: Cause) -> str:
    kinds = {
        "single features": "A feature that fires is removed, or doubled, in the model itself.",
        "all features of a token": "All features of one layer that fire on one token are removed.",
        "inputs": "The embedding of a token is moved half-way towards that of another token of the prompt.",
    }
    columns = [truth(name, cause, on) for on in ON for name in STATISTICS]
    names = [f"{name}, {called}" for called in ON.values() for name in STATISTICS]
    return (
        f"**Effects of {cause.name}.** {kinds[cause.name]} Predicted effects beside measured ones, "
        f"{interventions(result):,} interventions of all kinds a set on {result.config.truth_prompts} prompts. An "
        f"error of 1 is that of predicting no effect; signs agree by chance in .5.\n\n{_table(result, columns, names)}"
    )


def _by_distance(result: WholeModelResult) -> str:
    found = distances(result, ALL_FEATURES, "features")
    columns = [truth("rank correlation", ALL_FEATURES, "features", distance) for distance in found]
    names = [_band(distance) for distance in found]
    return (
        "**By distance.** Rank correlation of effects of features on later features, by their distance in blocks."
        f"\n\n{_table(result, columns, names)}"
    )


def _band(distance: int) -> str:
    after = next((band for band in BANDS if band > distance), None)
    if after is None:
        return f"{distance} and more"
    return str(distance) if after == distance + 1 else f"{distance} to {after - 1}"


def _of_scores(result: WholeModelResult) -> str:
    config = result.config
    seconds = [graph.seconds for of in result.sets for graph in of.graphs]
    return (
        f"**Scores of graphs**, as circuit-tracer defines them, on {config.graph_prompts} prompts of "
        f"{config.truth_tokens} tokens, with the {config.graph_features:,} features that matter most; a graph took "
        f"{sum(seconds) / len(seconds):.0f} s.\n\n{_table(result, list(SCORES))}"
    )
