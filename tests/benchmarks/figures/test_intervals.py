import numpy as np
import pytest

from faithfulness_plugin.benchmarks.figures.intervals import IntervalPanel, intervals_figure
from faithfulness_plugin.results.schema import Interval


def around(mean: float, low: float | None = None, high: float | None = None) -> Interval:
    return Interval(mean=mean, low=low, high=high, n=2)


def test_each_arm_is_drawn_at_its_mean_with_its_interval_in_its_groups_band():
    panels = [
        IntervalPanel(
            "one", {"a": {"x": around(0.5, 0.25, 0.75), "y": around(-0.5)}, "b": {"y": around(0.1, 0.0, 0.2)}}
        ),
        IntervalPanel("two", {"b": {"x": around(0.3, 0.1, 0.5)}}),
    ]
    figure = intervals_figure(panels, "what")
    first, second = (ax for ax in figure.axes if ax.get_title())
    dots = [line for line in first.lines if line.get_marker() not in ("None", "")]
    assert [np.asarray(line.get_xdata())[0] for line in dots] == [0.5, -0.5, 0.1]
    assert [round(np.asarray(line.get_ydata())[0]) for line in dots] == [0, 0, 1]
    bars = [
        np.asarray(line.get_xdata()).tolist()
        for line in first.lines
        if line.get_marker() in ("None", "") and line not in dots
    ]
    assert [0.25, 0.75] in bars
    assert [0.0, 0.2] in bars
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["x", "y"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["a", "b"]
    colors = {line.get_color() for ax in (first, second) for line in ax.lines if line.get_marker() == "s"}
    assert len(colors) == 1
    assert second.get_xlim() == pytest.approx((-1.05, 1.05))
