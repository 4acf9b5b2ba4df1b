"""What is gained beside reconstruction: an error over FVU, with the line of unmatched transcoders and the floor."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from faithfulness_plugin.benchmarks.figures.transcoders import Transcoders, by_name
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.results.panels import STYLES, inside_of, legend_below, style_axes, subplots

JACOBIAN_ROWS = 128


class Point(NamedTuple):
    """Values, and the ends of the intervals around them."""

    fvu: tuple[float, float, float]
    error: tuple[float, float, float]


class Plane(NamedTuple):
    """One set of axes."""

    title: str
    points: Mapping[str, Point]
    line: Sequence[tuple[float, float, str]]
    """(FVU, error, label) of transcoders that match nothing, of other sparsity: the line to leave."""
    floor: float
    """The least error that the L0 allows."""
    others: Mapping[str, float] = {}
    """More levels by name: other floors, and what has an error and no FVU to be compared at."""
    dots: Mapping[str, Sequence[tuple[float, float]]] = {}
    """(FVU, error) of each seed, by the names of the points."""


def draw_error_against_fvu(transcoders: Transcoders, layer: Layer, x: Float[Tensor, "rows d_in"]) -> Figure:
    """Draw the Jacobian error of transcoders over their FVU, with the floor that their L0 sets.

    Args:
        transcoders: one transcoder, or several by the names to show.
        layer: the function that they replace.
        x: rows. Jacobians are compared at 128 of them, evenly spread, outputs at all.

    Returns:
        The figure. The floor is that of the transcoder with the lowest one.

    Raises:
        ValueError: as `metrics.reconstruction`, `metrics.jacobian_error` and `metrics.jacobian_floor`.
    """
    from faithfulness_plugin import metrics  # tables that draw results need none of it

    some = x[torch.linspace(0, len(x) - 1, min(JACOBIAN_ROWS, len(x))).long()]
    points, floors = {}, []
    transcoder: Any
    for name, transcoder in by_name(transcoders).items():
        fvu = metrics.reconstruction(transcoder, layer, x).fvu
        error = metrics.jacobian_error(transcoder, layer, some, among=x).relative_error
        floors.append(metrics.jacobian_floor(transcoder, layer, some, among=x).relative_error)
        points[name] = Point((fvu, fvu, fvu), (error, error, error))
    figure = error_against_fvu([Plane("", points, [], min(floors))], "Jacobian error")
    figure.axes[0].set_xlim(left=0)
    return figure


def error_against_fvu(planes: Sequence[Plane], ylabel: str) -> Figure:
    """Draw one plane a layer; the arms have the styles of `curves_figure` in the same order.

    Args:
        planes: from left to right.
        ylabel: which error.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(max(7.2, 4.6 * len(planes) + 0.3), 4.2), layout="constrained")
    handles = {}
    for ax, plane in zip(subplots(figure, len(planes), len(planes)), planes, strict=True):
        along = sorted(plane.line)
        ax.plot([p[0] for p in along], [p[1] for p in along], color="0.55", linewidth=1, marker="x", zorder=1)
        for fvu, error, label in along:
            ax.annotate(
                label, (fvu, error), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=7.5, color="0.35"
            )
        for i, (name, point) in enumerate(plane.points.items()):
            color, _, marker = STYLES[i % len(STYLES)]
            handles[name] = ax.errorbar(
                point.fvu[0], point.error[0], xerr=_ends(*point.fvu), yerr=_ends(*point.error), color=color,
                marker=marker, markersize=6, markerfacecolor=inside_of(i), linestyle="none",
                elinewidth=1, zorder=3,
            )  # fmt: skip
            for fvu, error in plane.dots.get(name, ()):
                ax.plot(fvu, error, ".", color=color, markersize=4, alpha=0.6, zorder=2)
        levels = {"floor": plane.floor, **plane.others}
        for name, level in levels.items():
            ax.axhline(level, color="0.2", linestyle=(0, (2, 2)), linewidth=1)
            ax.annotate(
                f"{name} {level:.2f}", (1, level), xycoords=("axes fraction", "data"), xytext=(-3, 3),
                textcoords="offset points", ha="right", fontsize=8, color="0.2",
            )  # fmt: skip
        ax.margins(x=0.12)
        highest = max([p[1] for p in plane.line] + [p.error[2] for p in plane.points.values()])
        ax.set_ylim(max(0.0, min(levels.values()) - 0.08), max(highest, *levels.values()) + 0.07)
        style_axes(ax, plane.title, "FVU", ylabel)
    legend_below(figure, handles)
    return figure


def _ends(mean: float, low: float, high: float) -> list[list[float]]:
    return [[max(0.0, mean - low)], [max(0.0, high - mean)]]
