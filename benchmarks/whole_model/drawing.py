"""The figure of the truth test: how predicted effects agree with measured ones, arm by arm."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from faithfulness_plugin.benchmarks.figures.intervals import IntervalPanel, intervals_figure
from faithfulness_plugin.benchmarks.whole_model.analysis import CAUSES, ON, truth
from faithfulness_plugin.benchmarks.whole_model.schema import WholeModelResult
from faithfulness_plugin.benchmarks.whole_model.tables import arms_of


def figures(result: WholeModelResult) -> Mapping[str, Figure]:
    """Draw rank correlations by what is changed, a panel for each kind of target.

    Args:
        result: complete or partial.

    Returns:
        The figure by file name; none where nothing is measured.
    """
    if not result.sets:
        return {}
    panels = []
    for on, called in ON.items():
        groups = {}
        for cause in CAUSES:
            number = truth("rank correlation", cause, on)
            means = {arm.name: number.mean(result, arm) for arm in arms_of(result)}
            groups[cause.name] = {name: of for name, of in means.items() if of is not None}
        panels.append(IntervalPanel(f"effects on {called}", groups))
    return {"truth.png": intervals_figure(panels, "rank correlation, predicted and measured", 2)}
