"""The figures: error over FVU with the floor, response errors, who writes at the passage."""

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.figure import Figure

from faithfulness_plugin.benchmarks.figures.error_against_fvu import Plane, Point, error_against_fvu
from faithfulness_plugin.benchmarks.figures.passage_features import PassageFeatures, passage_features
from faithfulness_plugin.benchmarks.real_layers.analysis import Group, floor_with, groups, value
from faithfulness_plugin.benchmarks.real_layers.arms import NONE, Arm
from faithfulness_plugin.benchmarks.real_layers.pareto import along_sparsity, pareto
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.measure.relative_errors import fvu, jacobian_error, jacobian_floor, response_error
from faithfulness_plugin.metrics.passage_memorization import RARE
from faithfulness_plugin.metrics.result import Directions
from faithfulness_plugin.results.curves import Curve, Panel, curves_figure

PAIR_ERROR = jacobian_error("data")
STEPS: dict[Directions, tuple[str, str]] = {
    "difference": ("towards another token", "part of the way"),
    "data": ("along pairs of tokens", "part of the pair's difference / sqrt 2"),
    "isotropic": ("isotropic", "step, in units of the rms coordinate"),
}
"""Titles and labels of panels over the step's length."""


def figures(result: RealLayersResult) -> Mapping[str, Figure]:
    """Draw error over FVU, response curves, and features at the passage.

    Args:
        result: complete or partial.

    Returns:
        Figures by file name; none where nothing is trained.
    """
    if not result.trained:
        return {}
    found = {
        "error_against_fvu.png": _plane_figure(result),
        "responses.png": _over_steps(result, _errors, "relative response error"),
        "response_cosines.png": _over_steps(result, _cosines, "response cosine"),
    }
    if along_sparsity(result):
        found["pareto.png"] = pareto(result)
    if any(t.repeated for t in result.trained):
        found["passage_features.png"] = _passage_figure(result)
    return found


def _plane_figure(result: RealLayersResult) -> Figure:
    """Draw pair errors over FVU, a panel a block, for the first kind: arms on the real layer."""
    planes = []
    for group in groups(result, result.config.kinds[:1]):
        arms = _drawn(group)
        along = groups(result, [group.kind, *result.config.line])
        first = group.reference
        line = [
            (other.value(first, fvu), other.value(first, PAIR_ERROR), other.kind.name)
            for other in along
            if other.block == group.block and other.has(first)
        ]
        points = {arm.name: _point(group, arm) for arm in arms}
        dots = {arm.name: _seeds(group, arm) for arm in arms if len(group.runs(arm)) > 1}
        planes.append(Plane(f"block {group.name}", points, line, *_levels(group), dots))
    return error_against_fvu(planes, "relative Jacobian error, pair directions")


def _drawn(group: Group) -> list[Arm]:
    return [arm for arm in group.arms() if arm.layer == "real" and arm.control != "constant map"]


def _levels(group: Group) -> tuple[float, dict[str, float]]:
    """Return the floor without a skip connection, and other levels: the floor beside the mean Jacobian, that alone."""
    first, others = group.reference, {}
    for arm in group.arms():
        if arm.control == "constant map" and arm.layer == "real":
            others["constant map"] = group.value(arm, PAIR_ERROR)
    if any(run.floors is None for run in group.runs(first)):
        return group.value(first, jacobian_floor("data")), others
    others["floor with skip"] = group.value(first, floor_with("mean Jacobian", "data"))
    return group.value(first, floor_with("no skip", "data")), others


def _seeds(group: Group, arm: Arm) -> list[tuple[float, float]]:
    return [(value(group.result, run, fvu), value(group.result, run, PAIR_ERROR)) for run in group.runs(arm)]


def _point(group: Group, arm: Arm) -> Point:
    """Compute FVU and error, with the intervals of their changes against the baseline."""
    ends = []
    for error in (fvu, PAIR_ERROR):
        baseline, change = group.value(arm.baseline, error), (0.0, 0.0, 0.0)
        if arm != arm.baseline:
            interval = group.change(arm, error)
            change = (interval.mean, *interval.drawn)
        ends.append(tuple(baseline * (1 + end) for end in change))
    return Point(*ends)


def _errors(group: Group, arm: Arm, directions: Directions) -> list[float]:
    return [group.value(arm, response_error(directions, d)) for d in group.result.config.distances]


def _cosines(group: Group, arm: Arm, directions: Directions) -> list[float]:
    return np.mean([t.response_cosine[directions] for t in group.runs(arm)], axis=0).tolist()


def _over_steps(
    result: RealLayersResult, values: Callable[[Group, Arm, Directions], list[float]], ylabel: str
) -> Figure:
    """Draw curves over the step's length, a panel a block and kind of direction, for the first kind."""
    panels = []
    for group in groups(result, result.config.kinds[:1]):
        for directions, (title, xlabel) in STEPS.items():
            curves = {arm.name: Curve(result.config.distances, values(group, arm, directions)) for arm in _drawn(group)}
            panels.append(Panel(f"block {group.block}, {title}", curves, xlabel, ylabel))
    return curves_figure(panels, columns=3)


def _passage_figure(result: RealLayersResult) -> Figure:
    """Draw the first seed's features at the passage, with and without repetition."""
    panels = {}
    for t in result.trained:
        if t.passage is None or t.seed != result.config.seed or t.kind != result.config.kinds[0]:
            continue
        if t.repeated or t.arm == NONE:
            title = f"block {t.block}, {t.arm.name}\n{'repeated' if t.repeated else 'not repeated'}"
            panels[title] = PassageFeatures(t.passage.rate_elsewhere, t.passage.carried, t.passage.share)
    return passage_features(panels, RARE)
