"""One legend below all panels, and more curves than styles."""

import pytest
from matplotlib.figure import Figure

from faithfulness_plugin.results.curves import Curve, Panel, curves_figure
from faithfulness_plugin.results.panels import STYLES, legend_below


@pytest.mark.parametrize("length", [4, 20, 40])
def test_the_legend_is_within_the_figure(length):
    figure = Figure(figsize=(6.6, 4), layout="constrained")
    ax = figure.subplots()
    legend_below(figure, {f"{i} ".ljust(length, "m"): ax.plot([0, i])[0] for i in range(9)})
    figure.draw_without_rendering()
    (legend,) = figure.legends
    names = [text.get_window_extent() for text in legend.get_texts()]
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 for box in names)
    assert ax.get_position().height * figure.get_figheight() > 2


def test_no_two_curves_look_alike():
    names = [f"arm {i}" for i in range(3 * len(STYLES))]
    figure = curves_figure([Panel("", {name: Curve([0, 1], [0, 1]) for name in names}, "", "")])
    lines = figure.axes[0].lines
    assert len({(line.get_color(), line.get_marker(), line.get_markerfacecolor()) for line in lines}) == len(names)
