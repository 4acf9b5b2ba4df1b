import pytest
import small_suite
from small_suite import scores

from faithfulness_plugin.benchmarks.suite.at_layer_l0 import at_layer_l0, seed_scores


def test_each_seeds_sweep_is_read_where_it_passes_the_layers_l0():
    result = small_suite.result()
    at = seed_scores(result, "rotated", "a", 11)  # L0 2.5, 2, 1: there at the second strength
    assert at is not None
    assert at["headline"] == pytest.approx(0.811)
    of = at_layer_l0(result, "rotated", "a")
    assert (of.reached, of.n, of.failed) == (3, 3, 0)
    assert of.scores["headline"].mean == pytest.approx(0.8 + (11 + 23 + 37) / 3000)
    assert of.scores["headline"].low is not None


def test_between_two_strengths_all_scores_are_interpolated_alike():
    result = small_suite.result({"a": lambda seed, s: scores(3 - 4 * s, s, jacobian_error=2 * s)})
    at = seed_scores(result, "rotated", "a", 11)  # L0 2.6, 2.2, 1.4: a quarter of the way from .2 to .4
    assert at is not None
    assert (at["headline"], at["jacobian_error"], at["l0"]) == pytest.approx((0.25, 0.5, 2.0))


def test_a_sweep_that_comes_near_reaches_it_and_one_that_does_not_has_its_nearest():
    near = small_suite.result({"a": lambda seed, s: scores(2.05 + s - 0.1, s)})
    at = seed_scores(near, "rotated", "a", 11)
    assert at is not None
    assert at["l0"] == pytest.approx(2.05)
    far = at_layer_l0(small_suite.result({"a": lambda seed, s: scores(3.0 + s, s)}), "rotated", "a")
    assert (far.reached, far.scores) == (0, {})
    assert far.nearest == pytest.approx((3.1, 0.1))


def test_where_fewer_than_half_of_the_seeds_reach_it_no_interval_is_given():
    result = small_suite.result({"a": lambda seed, s: scores((3 if seed == 11 else 4) - 5 * s + (seed > 11), s)})
    of = at_layer_l0(result, "rotated", "a")
    assert of.reached == 1
    assert of.scores == {}


def test_failed_trials_are_counted_and_left_out():
    result = small_suite.result({"a": lambda seed, s: "no luck" if seed == 11 else scores(3 - 5 * s, s)})
    of = at_layer_l0(result, "rotated", "a")
    assert (of.n, of.reached, of.failed) == (2, 2, 3)
    nothing = at_layer_l0(small_suite.result({"a": lambda seed, s: "no luck"}), "rotated", "a")
    assert (nothing.n, nothing.nearest) == (0, None)
