"""What was run, and in short what every arm changes."""

from faithfulness_plugin.benchmarks.real_layers import claims, verdict
from faithfulness_plugin.benchmarks.real_layers.analysis import groups
from faithfulness_plugin.benchmarks.real_layers.cells import percent
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.measure.relative_errors import fvu, jacobian_error, response_error
from faithfulness_plugin.results import vocabulary
from faithfulness_plugin.results.markdown import markdown_table

PAIR_ERROR, HALF_WAY_ERROR = jacobian_error("data"), response_error("difference")


def overview(result: RealLayersResult) -> str:
    """Format what every arm changes against no term, in short, and the verdicts, for the first kind.

    Args:
        result: complete or partial.

    Returns:
        Markdown.
    """
    kinds = result.config.kinds[:1]
    header = [
        "block",
        "matched",
        "FVU",
        vocabulary.jacobian_error("data"),
        "of its distance to the floor",
        vocabulary.HALF_WAY_ERROR,
    ]
    rows = []
    for group in groups(result, kinds):
        for arm in group.matched():
            pair = group.gain(arm, PAIR_ERROR, "data")
            changes = [group.change(arm, fvu), pair.change, pair.of_distance, group.change(arm, HALF_WAY_ERROR)]
            rows.append([f"{group.block}", arm.name, *map(percent, changes)])
    said = claims.verdicts(result) or verdict.verdicts(result, kinds)
    return "\n\n".join([summary(result), markdown_table(header, rows), said])


def summary(result: RealLayersResult) -> str:
    """Say what was run.

    Args:
        result: complete or partial.

    Returns:
        One paragraph.
    """
    c = result.config
    rows = len(result.trained[0].error) if result.trained else 0
    seeds = f"{c.seeds} seed{'s' * (c.seeds > 1)}"
    return (
        f"{result.model}: d_sae {c.d_sae}, {c.tokens:,} tokens from stores of {c.stored_prompts:,} prompts, lr "
        f"{c.lr:g}, {seeds}; measured on {rows} held-out prompts of {c.context_size} tokens (whole Jacobians at "
        f"{c.jacobian_rows} rows of each, the spliced model on {c.spliced_prompts})."
    )
