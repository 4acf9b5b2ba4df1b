import matplotlib.image
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from faithfulness_plugin.benchmarks.figures.circuit_projection import (
    ProjectionPanel,
    circuit_projection_figure,
    diagonal_order,
)
from faithfulness_plugin.benchmarks.figures.jacobian_at_point import jacobian_at_point
from faithfulness_plugin.benchmarks.figures.memorization_by_arm import memorization_by_arm
from faithfulness_plugin.results.figure_file import save_figure

TITLES = ["baseline", "repetition", "repetition + Jacobian", "repetition + Jacobian at the kink", "repetition + secant"]


def projections() -> Figure:
    rng = np.random.default_rng(0)
    labels = [f"ReLU({s}x{i + 1})" for i in range(16) for s in ("", "-")] + ["datapoint p"]
    panels = {name: ProjectionPanel(rng.random((33, 20 + n)), rng.random(20 + n)) for n, name in enumerate(TITLES)}
    return circuit_projection_figure(panels, labels, "What the features are made of")


def jacobians() -> Figure:
    return jacobian_at_point({name: np.random.default_rng(0).normal(size=(16, 16)) for name in TITLES}, np.eye(16), 3)


def memorizations() -> Figure:
    return memorization_by_arm({name: [0.0, 0.97, 1.02] for name in TITLES})


@pytest.mark.parametrize("make", [projections, jacobians, memorizations])
def test_nothing_is_clipped(make):
    figure = make()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = figure.get_tightbbox(canvas.get_renderer())  # of everything drawn, in inches
    width, height = figure.get_size_inches()
    assert drawn.x0 >= 0
    assert drawn.y0 >= 0
    assert drawn.x1 <= width
    assert drawn.y1 <= height


def test_jacobians_share_one_scale_with_zero_in_the_middle():
    figure = jacobian_at_point({"a": 3 * np.eye(4), "b": -np.eye(4)}, np.eye(4), 2)
    limits = {ax.images[0].get_clim() for ax in figure.axes if ax.images}
    assert limits == {(-3.0, 3.0)}
    assert len([ax for ax in figure.axes if ax.images]) == 3


def test_columns_are_sorted_to_the_diagonal():
    weights = np.array([[0.1, 0.9, 0.5, 0.0], [0.8, 0.0, 0.1, 0.0], [0.0, 0.1, 0.0, 0.7]])
    assert diagonal_order(weights).tolist() == [1, 2, 0, 3]
    assert diagonal_order(np.zeros((3, 0))).tolist() == []


def test_every_seed_is_a_dot():
    figure = memorization_by_arm({"a": [0.1, 0.2, 0.3], "b": [0.5]})
    dots = [len(np.asarray(c.get_offsets())) for c in figure.axes[0].collections]
    assert dots == [3, 1]


def test_saving_replaces_and_repeats(tmp_path):
    path = tmp_path / "figure.png"
    save_figure(memorizations(), path, "a result")
    first = path.read_bytes()
    save_figure(memorizations(), path, "a result")
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]
    assert matplotlib.image.imread(path).shape[1] > 1000
