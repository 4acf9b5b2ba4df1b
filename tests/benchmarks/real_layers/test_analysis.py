import numpy as np
import pytest
from real_layers import arm_record, result_of

from faithfulness_plugin.benchmarks.real_layers.analysis import Group, gain, value
from faithfulness_plugin.benchmarks.real_layers.arms import Arm
from faithfulness_plugin.benchmarks.real_layers.kinds import Kind
from faithfulness_plugin.measure.relative_errors import fvu, jacobian_error, response_error
from faithfulness_plugin.metrics.result import DIRECTIONS

PAIR = Arm(term="secant", probe="pair", coefficient=0.3)
GENERATOR = np.random.default_rng(0)


def test_errors_are_ratios_of_means_over_the_prompts():
    trained = arm_record(Arm(), error=[1.0, 3.0], jacobian=[2.0, 2.0], response=[1.0, 0.0])
    result = result_of([trained], variance=[10.0, 10.0], jacobian=[2.0, 6.0], response=[1.0, 3.0])
    assert value(result, trained, fvu) == pytest.approx(4 / 20)
    assert value(result, trained, jacobian_error("data")) == pytest.approx(4 / 8)
    assert value(result, trained, response_error("difference")) == pytest.approx(1 / 4)


def test_the_interval_over_prompts_is_that_of_a_ratio():
    """Against the delta method, on many prompts."""
    n = 400
    errors, wholes = GENERATOR.gamma(4, size=n), GENERATOR.gamma(9, size=n)
    trained = arm_record(Arm(), error=errors.tolist())
    found = Group(result_of([trained], variance=wholes.tolist()), 0, Kind()).error(Arm(), fvu)
    ratio = errors.sum() / wholes.sum()
    sd = np.std(errors - ratio * wholes, ddof=1) / wholes.mean() / np.sqrt(n)
    assert found.mean == pytest.approx(ratio)
    assert found.n == n
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * sd, rel=0.1)


def test_a_change_is_paired_prompt_by_prompt():
    """Every prompt changes alike, however different they are: the change is known exactly."""
    errors = GENERATOR.gamma(1, size=30)
    none, arm = arm_record(Arm(), error=errors.tolist()), arm_record(PAIR, error=(0.8 * errors).tolist())
    found = gain(result_of([none, arm], variance=GENERATOR.gamma(2, size=30).tolist()), [arm], [none], fvu)
    change = found.change
    assert [change.low, change.mean, change.high] == pytest.approx([-0.2] * 3)
    assert found.of_distance is None


def test_the_distance_to_the_floor():
    none, arm = arm_record(Arm(), jacobian=[9.0, 9.0], floor=4.0), arm_record(PAIR, jacobian=[8.0, 8.0], floor=4.0)
    result = result_of([none, arm], jacobian=[10.0, 10.0])
    found = gain(result, [arm], [none], jacobian_error("data"), "data")
    assert found.of_distance is not None
    assert found.of_distance.mean == pytest.approx((0.9 - 0.8) / (0.9 - 0.4))
    assert found.change.mean == pytest.approx(-0.1 / 0.9)


def test_the_floor_is_drawn_anew_with_the_prompts():
    """Error and floor rise and fall together, prompt by prompt: how much of the distance is gone is known exactly."""
    scale = GENERATOR.gamma(1, size=30)
    none = arm_record(Arm(), jacobian=(0.9 * scale).tolist()).model_copy(
        update={"floor": dict.fromkeys(DIRECTIONS, (0.4 * scale).tolist())}
    )
    arm = arm_record(PAIR, jacobian=(0.8 * scale).tolist())
    result = result_of([none, arm], jacobian=GENERATOR.gamma(2, size=30).tolist())
    found = gain(result, [arm], [none], jacobian_error("data"), "data").of_distance
    assert found is not None
    assert [found.low, found.mean, found.high] == pytest.approx([0.2] * 3)


def test_seeds_are_paired_and_widen_the_interval():
    arms, nones = [], []
    for seed in range(5):
        base = 1 + 0.3 * seed
        nones.append(arm_record(Arm(), seed=seed, error=[base] * 20))
        arms.append(arm_record(PAIR, seed=seed, error=[base * (0.9 + 0.02 * seed)] * 20))
    result = result_of([*nones, *arms], variance=[2.0] * 20)
    change = gain(result, arms, nones, fvu).change
    ratios = [a.error[0] / b.error[0] for a, b in zip(arms, nones, strict=True)]
    assert change.low is not None
    assert change.high is not None
    assert min(ratios) - 1 <= change.low < change.mean < change.high <= max(ratios) - 1


def test_a_seed_without_a_partner_is_left_out():
    none = arm_record(Arm(), seed=0, error=[1.0, 1.0])
    arms = [arm_record(PAIR, seed=seed, error=[1.0 + seed, 1.0 + seed]) for seed in (0, 1)]
    assert gain(result_of([none, *arms]), arms, [none], fvu).change.mean == 0
