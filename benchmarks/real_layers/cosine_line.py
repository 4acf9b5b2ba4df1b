"""How far cosines lie above the line that transcoders without a term make with FVU."""

import numpy as np

from faithfulness_plugin.benchmarks.real_layers.analysis import Group, value
from faithfulness_plugin.benchmarks.real_layers.arms import NONE
from faithfulness_plugin.benchmarks.real_layers.cells import mean_text
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.measure.relative_errors import fvu
from faithfulness_plugin.results.markdown import markdown_table


def beside_the_line(result: RealLayersResult, block: int) -> str:
    """Say how far cosines lie above the line that transcoders without a term make with FVU.

    Args:
        result: complete or partial.
        block: which layer.

    Returns:
        Markdown; "" without a line.
    """
    unmatched = [t for t in result.trained if t.block == block and t.arm == NONE and not t.repeated]
    if len({t.kind.name for t in unmatched}) < 3:
        return ""
    x, y = [value(result, t, fvu) for t in unmatched], [t.jacobian_cosine["data"] for t in unmatched]
    slope, at_0 = np.polyfit(x, y, 1)
    rest = float(np.abs(np.array(y) - slope * np.array(x) - at_0).max())
    rows = []
    for kind in result.config.kinds:
        group = Group(result, block, kind)
        for arm in group.matched():
            runs = group.runs(arm)
            above = [t.jacobian_cosine["data"] - (slope * value(result, t, fvu) + at_0) for t in runs]
            cosine = mean_text([t.jacobian_cosine["data"] for t in runs])
            rows.append([kind.name, arm.name, cosine, f"{np.mean(above):+.3f}"])
    spread = f"{len(unmatched)} transcoders without a term lie within {rest:.3f} of it"
    return f"Block {block}: cosine = {at_0:.3f} {slope:+.3f} FVU; {spread}.\n\n" + markdown_table(
        ["kind", "matched", "cosine, pairs", "above the line"], rows
    )
