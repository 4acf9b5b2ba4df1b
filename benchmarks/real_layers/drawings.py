"""The figures: error over FVU with the floor, response errors, who writes at the passage."""

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from faithfulness_plugin.benchmarks.figures.error_against_fvu import Plane, Point, error_against_fvu
from faithfulness_plugin.benchmarks.figures.passage_features import PassageFeatures, passage_features
from faithfulness_plugin.benchmarks.real_layers.analysis import (
    NONE,
    Read,
    arms_of,
    fvu,
    gain_in,
    jacobian_error,
    jacobian_floor,
    of_arm,
    response_error,
    value_of,
)
from faithfulness_plugin.benchmarks.real_layers.arms import Arm, Kind
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.measure.held_out_schema import Directions
from faithfulness_plugin.metrics.passage_memorization import RARE
from faithfulness_plugin.results.curves import Curve, Panel, curves_figure
from faithfulness_plugin.results.schema import Interval


def plane_figure(result: RealLayersResult) -> Figure:
    """Pair errors over FVU, a panel a block; of the first kind."""
    kind, read = result.config.kinds[0], jacobian_error("data")
    planes = []
    for block in result.config.blocks:
        points = {arm.name: _point(result, block, kind, arm, read) for arm in arms_of(result, block, kind)}
        unmatched = [
            (value_of(result, block, other, NONE, fvu), value_of(result, block, other, NONE, read), other.name)
            for other in [kind, *result.config.line]
            if of_arm(result, block, other, NONE)
        ]
        floor = value_of(result, block, kind, NONE, jacobian_floor("data"))
        planes.append(Plane(f"block {block}, {kind.name}", points, unmatched, floor))
    return error_against_fvu(planes, "relative Jacobian error, pair directions")


def _point(result: RealLayersResult, block: int, kind: Kind, arm: Arm, read: Read) -> Point:
    """FVU and error, with the intervals of what they are changed by against no term."""
    ends = []
    for of in (fvu, read):
        baseline = value_of(result, block, kind, NONE, of)
        change = Interval(mean=0, low=0, high=0, n=0) if arm == NONE else gain_in(result, block, kind, arm, of).change
        ends.append(tuple(baseline * (1 + end) for end in _ends(change)))
    return Point(*ends)


def responses_figure(result: RealLayersResult) -> Figure:
    """Errors over the step's length, a panel a block and kind of direction; of the first kind."""

    def errors(block: int, kind: Kind, arm: Arm, directions: Directions) -> list[float]:
        reads = [response_error(directions, d) for d in result.config.distances]
        return [value_of(result, block, kind, arm, read) for read in reads]

    return _over_steps(result, errors, "relative response error")


def cosines_figure(result: RealLayersResult) -> Figure:
    """Cosines of the responses, likewise."""

    def cosines(block: int, kind: Kind, arm: Arm, directions: Directions) -> list[float]:
        each = [t.response_cosine[directions] for t in of_arm(result, block, kind, arm)]
        return np.mean(each, axis=0).tolist()

    return _over_steps(result, cosines, "response cosine")


def _over_steps(
    result: RealLayersResult, values: Callable[[int, Kind, Arm, Directions], list[float]], ylabel: str
) -> Figure:
    kind = result.config.kinds[0]
    titles: dict[Directions, tuple[str, str]] = {
        "difference": ("towards another token", "part of the way"),
        "data": ("along pairs of tokens", "part of the pair's difference / sqrt 2"),
        "isotropic": ("isotropic", "step, in units of the rms coordinate"),
    }
    panels = []
    for block in result.config.blocks:
        for directions, (title, xlabel) in titles.items():
            curves = {}
            for arm in arms_of(result, block, kind):
                curves[arm.name] = Curve(result.config.distances, values(block, kind, arm, directions))
            panels.append(Panel(f"block {block}, {title}", curves, xlabel, ylabel))
    return curves_figure(panels, columns=3)


def passage_figure(result: RealLayersResult) -> Figure:
    """The first seed's features at the passage, with and without repetition."""
    panels = {}
    for t in result.trained:
        if t.passage is None or t.seed != result.config.seed:
            continue
        if t.repeated or t.arm == NONE:
            title = f"block {t.block}, {t.arm.name}\n{'repeated' if t.repeated else 'not repeated'}"
            if t.kind == result.config.kinds[0]:
                p = t.passage
                panels[title] = PassageFeatures(p.rate_elsewhere, p.carried, p.share)
    return passage_features(panels, RARE)


def _ends(of: Interval) -> tuple[float, float, float]:
    return of.mean, of.mean if of.low is None else of.low, of.mean if of.high is None else of.high
