"""The passage that is repeated: which features write there."""

from faithfulness_plugin.benchmarks.real_layers.analysis import groups
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.measure.relative_errors import fvu
from faithfulness_plugin.results.intervals import interval
from faithfulness_plugin.results.markdown import interval_text, markdown_table


def passages(result: RealLayersResult) -> str:
    """Format the passage in every transcoder of its blocks, where it was repeated and where it was not.

    Args:
        result: complete or partial.

    Returns:
        A Markdown table.
    """
    header = ["block", "trained", "matched", "share of its own features", "how many", "FVU there", "FVU"]
    rows = []
    for group in groups(result):
        for repeated in (False, True):
            for arm in group.arms(repeated=repeated):
                at = [t.passage for t in group.runs(arm, repeated=repeated) if t.passage is not None]
                if not at:
                    continue
                columns = [([p.share for p in at], 3), ([p.own_features for p in at], 1), ([p.fvu for p in at], 3)]
                rows.append(
                    [
                        group.name,
                        "with repetition" if repeated else "without",
                        arm.name,
                        *(interval_text(interval(values), digits) for values, digits in columns),
                        interval_text(group.error(arm, fvu, repeated=repeated), 3),
                    ]
                )
    return markdown_table(header, rows)
