"""Curves with bands, one line an arm, distinguished by colour, dash and marker alike."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import FuncFormatter

from faithfulness_plugin.results.panels import STYLES, grid, inside_of, legend_below, style_axes, subplots

Scale = Literal["linear", "log", "symlog"]


class Curve(NamedTuple):
    """One line: its points, and the band around them."""

    x: Sequence[int | float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


class Panel(NamedTuple):
    """One set of axes."""

    title: str
    curves: Mapping[str, Curve]
    xlabel: str
    ylabel: str
    xscale: Scale = "linear"
    yscale: Scale = "linear"
    marks: Mapping[str, float] = {}
    """Vertical lines {label: x}."""
    linear_below: float = 0.1
    """symlog: where the x axis turns linear, so that 0 has a place."""
    ylim: tuple[float, float] | None = None


def curves_figure(
    panels: Sequence[Panel], columns: int = 3, *, legend: bool = True, order: Sequence[Sequence[str]] = ()
) -> Figure:
    """Draw the panels on a figure of their own (see `draw_curves`).

    Args:
        panels: at least one.
        columns: the largest number of panels in a row.
        legend: whether arms are named below the panels.
        order: groups of names that share a style.

    Returns:
        The figure.
    """
    rows, columns = grid(len(panels), columns)
    figure = Figure(figsize=(4.1 * columns + 0.3, 3.1 * rows + 0.75), layout="constrained")
    draw_curves(figure, panels, columns, legend=legend, order=order)
    return figure


def draw_curves(
    figure: FigureBase,
    panels: Sequence[Panel],
    columns: int = 3,
    *,
    legend: bool = True,
    order: Sequence[Sequence[str]] = (),
) -> None:
    """Draw the panels in a grid, with one legend for all of them.

    An arm has the same style in each panel, and in each figure with the same `order`.

    Args:
        figure: an empty one.
        panels: at least one.
        columns: the largest number of panels in a row.
        legend: whether arms are named below the panels, where there are several.
        order: groups of names, each with the style of its place; other names take what is left.
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    places = {name: i for i, group in enumerate(order) for name in group if name in names}
    left = [i for i in range(len(STYLES)) if i not in places.values()] or list(range(len(STYLES)))
    for i, name in enumerate([name for name in names if name not in places]):
        places[name] = left[i % len(left)] + i // len(left) * len(STYLES)
    handles = {}
    for ax, panel in zip(subplots(figure, len(panels), columns), panels, strict=True):
        for name, curve in panel.curves.items():
            handles[name] = _draw(ax, curve, places[name])
        for label, x in panel.marks.items():
            ax.axvline(x, color="0.45", linewidth=1, zorder=1)
            ax.annotate(
                label, (x, 1), xycoords=("data", "axes fraction"), xytext=(2, -3), textcoords="offset points",
                ha="left", va="top", rotation=90, fontsize=7.5, color="0.35",
            )  # fmt: skip
        _set_scales(ax, panel)
        style_axes(ax, panel.title, panel.xlabel, panel.ylabel)
    if legend and len(names) > 1:
        legend_below(figure, handles, handlelength=3.5)


def _draw(ax: Axes, curve: Curve, place: int):
    """Draw one curve with its band; where there are more curves than styles, the further ones have hollow markers."""
    color, dash, marker = STYLES[place % len(STYLES)]
    every = max(1, len(curve.x) // 12)
    (line,) = ax.plot(
        curve.x, curve.y, color=color, linestyle=dash, marker=marker, markersize=4, markevery=every, linewidth=1.5,
        markerfacecolor=inside_of(place), zorder=3,
    )  # fmt: skip
    if curve.low is not None and curve.high is not None:
        ax.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.15, linewidth=0, zorder=2)
    return line


def _set_scales(ax: Axes, panel: Panel) -> None:
    if panel.xscale == "symlog":
        ax.set_xscale("symlog", linthresh=panel.linear_below, linscale=0.4)
    else:
        ax.set_xscale(panel.xscale)
    ax.set_yscale(panel.yscale)
    if panel.ylim is not None:
        ax.set_ylim(*panel.ylim)
    for axis, scale in ((ax.xaxis, panel.xscale), (ax.yaxis, panel.yscale)):
        if scale != "linear":
            low, high = sorted(map(abs, axis.get_view_interval()))
            narrow = scale == "log" and low > 0 and high < 30 * low
            axis.set_major_formatter(FuncFormatter(_plain))
            axis.set_minor_formatter(FuncFormatter(_plain if narrow else lambda value, place: ""))


def _plain(value: float, place: int | None) -> str:
    """Write a tick as people do; of a decade, only numbers that start with 1, 2 or 5."""
    return f"{value:g}" if f"{value:e}"[0] in "0125" else ""
