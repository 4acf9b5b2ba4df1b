"""What figures share: colours and styles of arms, panels in a grid, axes without clutter, and one legend."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.container import Container
from matplotlib.figure import Figure, FigureBase
from matplotlib.textpath import TextPath

BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe and Ito, which the colour-blind can distinguish
STYLES = (  # their other colours, too, of different lightness, each with a dash and a marker of its own
    ("#000000", "-", "o"),
    (BLUE, "--", "s"),
    ("#E69F00", "-.", "^"),
    ("#009E73", ":", "D"),
    ("#CC79A7", (0, (5, 1)), "v"),
    ("#56B4E9", (0, (3, 1, 1, 1)), "P"),
    (ORANGE, (0, (1, 1)), "X"),
    ("#7F7F7F", (0, (6, 2, 1, 2, 1, 2)), "h"),
)


def inside_of(place: int) -> str:
    """Return the colour inside an arm's marker, by which arms beyond the styles differ from those of the same style.

    Args:
        place: the arm's, from 0.

    Returns:
        The style's own colour, then white, then grey.
    """
    return (STYLES[place % len(STYLES)][0], "white", "0.8")[min(place // len(STYLES), 2)]


def grid(n: int, columns: int) -> tuple[int, int]:
    """Lay out n panels.

    Args:
        n: how many panels.
        columns: the largest number in a row.

    Returns:
        Rows and columns.
    """
    columns = min(columns, n)
    return -(-n // columns), columns


def subplots(figure: FigureBase, n: int, columns: int, **shared: Any) -> list[Axes]:
    """Add n axes in a grid, row after row; the places that are left stay empty.

    Args:
        figure: where to add them.
        n: how many.
        columns: the largest number in a row.
        shared: options of matplotlib's `subplots`, such as sharey.

    Returns:
        The axes.
    """
    axes = figure.subplots(*grid(n, columns), squeeze=False, **shared)
    for ax in axes.flat[n:]:
        ax.set_axis_off()
    return list(axes.flat[:n])


def style_axes(
    ax: Axes, title: str = "", xlabel: str = "", ylabel: str = "", *, lines: Literal["both", "x"] = "both"
) -> None:
    """Set title and labels, and draw light grid lines and no frame.

    Args:
        ax: one panel.
        title: above it.
        xlabel: below it.
        ylabel: at its left.
        lines: which grid lines to draw.
    """
    ax.set_title(title, fontsize=10)
    ax.set_xlabel(xlabel, fontsize=9)
    ax.set_ylabel(ylabel, fontsize=9)
    ax.tick_params(which="both", labelsize=8)
    ax.grid(axis=lines, color="0.92", zorder=0)
    ax.spines[["top", "right"]].set_visible(False)


def set_title(ax: Axes, name: str) -> None:
    """Set an arm's title above a narrow panel: centred, and broken at its plus sign.

    Args:
        ax: one panel.
        name: the arm's name.
    """
    ax.set_title(name.replace(" + ", "\n+ ", 1), fontsize=10, multialignment="center")


def number_ticks(axis: Axis, ticks: Iterable[int]) -> None:
    """Label positions of a matrix, counted from 1.

    Args:
        axis: the panel's x or y axis.
        ticks: positions, counted from 0.
    """
    positions = sorted(set(ticks))
    axis.set_ticks(positions, labels=[str(t + 1) for t in positions], fontsize=8)


LEGEND_SIZE, LEGEND_HANDLE = 9, 48
"""Points: the names' font, and what the sign beside a name and the space between columns take."""


def legend_below(
    figure: FigureBase, handles: Mapping[str, Artist | Container], columns: int = 3, **options: Any
) -> None:
    """Add one legend for all panels, below them, in as many columns as the figure is wide enough for.

    Rows that this adds make a figure higher, not the panels lower.

    Args:
        figure: the whole figure, or a part of one.
        handles: what is drawn, by the name to show.
        columns: the largest number of names in a row.
        options: of matplotlib's `legend`.
    """
    wanted = max(1, min(columns, len(handles)))
    longest = max((TextPath((0, 0), name, size=LEGEND_SIZE).get_extents().width for name in handles), default=0)
    part: Any = figure  # both kinds of figures have these, and their base class does not declare them
    fitting = int(72 * part.bbox.width / part.dpi // (longest + LEGEND_HANDLE))
    columns = max(1, min(wanted, fitting))
    more_rows = -(-len(handles) // columns) + len(handles) // -wanted
    if isinstance(figure, Figure):
        figure.set_figheight(figure.get_figheight() + more_rows * 1.7 * LEGEND_SIZE / 72)
    options |= {"ncols": columns, "fontsize": LEGEND_SIZE, "frameon": False}
    artists: list[Any] = list(handles.values())  # matplotlib's own type leaves containers out
    figure.legend(artists, list(handles), loc="outside lower center", **options)
