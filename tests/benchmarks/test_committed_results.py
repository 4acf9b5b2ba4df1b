"""What this repository says was measured, held against the committed files, seed by seed."""

import pytest

from faithfulness_plugin.benchmarks.absolute_value.conditions import CONDITIONS
from faithfulness_plugin.benchmarks.absolute_value.schema import AbsoluteValueResult, ExperimentConfig, RunMetrics
from faithfulness_plugin.benchmarks.readme import RESULT
from faithfulness_plugin.benchmarks.schema import read_result

MATCHED = ("jacobian", "jacobian_kink", "secant")


@pytest.fixture(scope="module")
def runs() -> dict[str, list[RunMetrics]]:
    result = read_result(RESULT, AbsoluteValueResult)
    assert result.config == ExperimentConfig()  # five seeds of the default setting ...
    assert tuple(result.conditions) == CONDITIONS  # ... in today's conditions
    return {c.name: [r.metrics for r in result.runs if r.condition == c.name] for c in CONDITIONS}


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_repetition_memorises_in_every_seed(runs):
    assert all(m.m >= 0.6 for m in runs["repetition"])


def test_the_baseline_does_not_and_learns_the_layer(runs):
    assert all(m.m <= 0.02 for m in runs["baseline"])
    assert mean([m.fvu for m in runs["baseline"]]) <= 0.03


@pytest.mark.parametrize("name", MATCHED)
def test_matching_removes_it_in_every_seed_at_no_cost(runs, name):
    assert all(m.m <= 0.02 for m in runs[name])
    assert mean([m.fvu for m in runs[name]]) <= mean([m.fvu for m in runs["repetition"]])
    gaps = {n: abs(mean([m.effective_l0 for m in runs[n]]) - 1.6) for n in (name, "repetition")}
    assert gaps[name] <= gaps["repetition"]
