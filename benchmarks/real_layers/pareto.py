"""Errors over the number of active features: whether matching moves the curve, rather than a point on it."""

from collections.abc import Callable
from statistics import mean

from matplotlib.figure import Figure

from faithfulness_plugin.benchmarks.real_layers.analysis import Group, floor_with, groups
from faithfulness_plugin.benchmarks.real_layers.arms import Arm
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.benchmarks.real_layers.tables import FLOORS
from faithfulness_plugin.measure.relative_errors import RelativeError, delta_ce, fvu, jacobian_error
from faithfulness_plugin.results.curves import Curve, Panel, curves_figure
from faithfulness_plugin.results.schema import Interval

FEWEST = 3
"""A curve has at least this many numbers of active features."""
PAIR_ERROR = jacobian_error("data")
DRAWN: dict[str, RelativeError] = {
    "Jacobian error along pairs": PAIR_ERROR,
    "FVU": fvu,
    "ΔCE, nats a token": delta_ce,
}


def arms_along(found: list[Group]) -> list[Arm]:
    """List the arms that were trained at several sparsities.

    Args:
        found: runs of one block, by sparsity.

    Returns:
        Those that make a curve.
    """
    arms = found[0].result.config.line_arms if found else []
    return [arm for arm in arms if sum(group.has(arm) for group in found) >= FEWEST]


def along_sparsity(result: RealLayersResult) -> dict[int, list[Group]]:
    """Group the runs of the first kind's architecture by block, for blocks that have a curve.

    Args:
        result: complete or partial.

    Returns:
        Groups of several sparsities, by block; none for results of version 0.8.
    """
    config = result.config
    if config.keep == "derivatives":  # version 0.8 measured one floor, and no losses by prompt
        return {}
    kinds = [kind for kind in [*config.kinds, *config.line] if kind.architecture == config.kinds[0].architecture]
    each = {block: [g for g in groups(result, kinds) if g.block == block] for block in config.blocks}
    return {block: found for block, found in each.items() if arms_along(found)}


def pareto(result: RealLayersResult) -> Figure:
    """Draw errors over L0, a row a block, for the arms that were trained at several sparsities.

    Args:
        result: one with a curve (`along_sparsity`).

    Returns:
        The figure.
    """
    panels = []
    for block, found in along_sparsity(result).items():
        arms = arms_along(found)
        for label, error in DRAWN.items():
            curves = {arm.name: _curve(found, arm, lambda g, a=arm, e=error: g.error(a, e)) for arm in arms}
            if error is PAIR_ERROR:
                with_skip = max(arms, key=lambda arm: arm.skip)  # at each sparsity all arms have one L0
                for floor, said in FLOORS.items():
                    at = floor_with(floor, "data")
                    curves[f"floor {said}"] = _curve(found, with_skip, lambda g, e=at, a=with_skip: g.error(a, e))
            panels.append(Panel(f"block {block}", curves, "L0", label, xscale="log"))
    return curves_figure(panels, columns=len(DRAWN))


def _curve(found: list[Group], arm: Arm, error: Callable[[Group], Interval]) -> Curve:
    at = sorted((mean(run.l0 for run in group.runs(arm)), error(group)) for group in found if group.has(arm))
    low, high = zip(*(of.drawn for _, of in at), strict=True)
    return Curve([l0 for l0, _ in at], [of.mean for _, of in at], low, high)
