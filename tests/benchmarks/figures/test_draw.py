"""Figures that are called with (transcoder, layer, x)."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from oracles import exact_abs_transcoder, plant_datapoint_feature, random_transcoder
from torch import nn

import faithfulness_plugin
from faithfulness_plugin import AbsInputs, AbsNetwork, metrics
from faithfulness_plugin.benchmarks import figures
from faithfulness_plugin.jacobian.exact import transcoder_jacobian

D = 8


@pytest.fixture
def transcoders():
    exact, shortcut = (exact_abs_transcoder(D, 24).eval() for _ in range(2))
    plant_datapoint_feature(shortcut, AbsInputs(D).point.double(), 20)
    return {"exact": exact, "with a shortcut": shortcut}


@pytest.fixture
def layer():
    return AbsNetwork(D).double()


def images(figure) -> list[np.ndarray]:
    return [np.asarray(ax.images[0].get_array()) for ax in figure.axes if ax.images]


def test_jacobians_are_the_layers_and_those_of_each_transcoder(transcoders, layer):
    point = AbsInputs(D).point.double()
    figure = figures.draw_jacobians(transcoders, layer, point)
    shown = images(figure)
    np.testing.assert_allclose(shown[0], np.diag([1.0] * 3 + [0.0] * 5))
    for image, transcoder in zip(shown[1:], transcoders.values(), strict=True):
        np.testing.assert_allclose(image, transcoder_jacobian(transcoder, point[None])[0].detach(), atol=1e-6)
    titles = [ax.get_title().replace("\n", " ") for ax in figure.axes if ax.images]
    assert titles == ["the layer", "exact", "with a shortcut"]
    assert len(figures.draw_jacobians(transcoders["exact"], layer, point.flip(0)).axes[0].patches) == 0


def test_features_come_by_what_they_carry(transcoders, layer):
    figure = figures.draw_feature_weights(transcoders, layer, AbsInputs(D).point.double())
    first, second = figure.axes[0], figure.axes[1]
    assert sorted(label.get_text() for label in first.get_yticklabels()) == ["0: +0.33", "1: +0.33", "2: +0.33"]
    assert second.get_yticklabels()[0].get_text().startswith("20: ")
    reads = images(figure)[0]
    np.testing.assert_allclose(np.abs(reads).sum(0), [1.0] * 3 + [0.0] * 5, atol=1e-6)


def test_the_plane_has_each_transcoders_numbers(transcoders, layer):
    x = next(AbsInputs(D, density=0.5, repeat_frac=0.1)).double()
    figure = figures.draw_error_against_fvu(transcoders, layer, x)
    points = [
        np.asarray(line.get_xydata())[0] for line in figure.axes[0].lines if line.get_marker() not in ("None", "", "x")
    ]
    for (fvu, error), transcoder in zip(points, transcoders.values(), strict=True):
        assert fvu == pytest.approx(metrics.reconstruction(transcoder, layer, x).fvu, abs=1e-9)
        some = x[torch.linspace(0, len(x) - 1, 128).long()]
        assert error == pytest.approx(metrics.jacobian_error(transcoder, layer, some, among=x).relative_error)


def test_any_widths_and_any_layer(as_installed):
    torch.manual_seed(0)
    transcoder, layer, x = random_transcoder("topk").eval(), nn.Linear(5, 4).double(), torch.randn(40, 5).double()
    for figure in (
        figures.draw_jacobians(transcoder, layer, x[0]),
        figures.draw_feature_weights(transcoder, layer, x[0]),
        figures.draw_error_against_fvu(transcoder, layer, x),
    ):
        FigureCanvasAgg(figure).draw()
    for draw in (figures.draw_jacobians, figures.draw_feature_weights):
        with pytest.raises(ValueError, match=r"x has shape \[40, 5\]: pass one input"):
            draw(transcoder, layer, x)


def test_figures_are_found():
    assert {"draw_jacobians", "draw_feature_weights", "draw_error_against_fvu"} <= set(dir(figures))
    assert vars(faithfulness_plugin)["__getattr__"]("figures") is figures
