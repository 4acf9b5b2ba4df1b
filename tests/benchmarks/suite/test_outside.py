"""What an outside method does to its process costs one trial."""

import re

import pytest

from faithfulness_plugin.benchmarks.suite.outside import run_outside
from faithfulness_plugin.benchmarks.suite.schema import Trial
from faithfulness_plugin.benchmarks.workers import each_done

FAILURES = {
    "raises": r"RuntimeError: no luck \(outside_methods.py, line \d+\)",
    "hangs": r"no transcoder after 2 seconds \(--time-limit\)",
    "dies": r"its process died \(exit code 7\)",
    "is_none": r"returned a Linear without encode",
    "narrow": r"transcoder\(x\) has shape \[8, 15\], not \[8, 16\]",
    "is_nan": r"has NaN or Inf",
}


def trials(name: str) -> list[Trial]:
    return [
        Trial(task="absolute_value", method=f"outside_methods:{name}", strength=0.1, seed=seed) for seed in (1, 2, 3)
    ]


@pytest.mark.parametrize("how", FAILURES)
def test_a_failure_costs_its_trial_alone_and_is_told(how):
    first, second, third = run_outside(
        f"outside_methods:{how}", trials(how), time_limit=2.0 if how == "hangs" else 60.0
    )
    assert first.scores is not None
    assert third.scores is not None
    assert second.scores is None
    assert second.failed is not None
    assert re.search(FAILURES[how], second.failed), second.failed


def test_a_good_one_is_scored_and_equal_seeds_give_equal_scores():
    twice = [run_outside("outside_methods:method", trials("method")[:1], 60.0)[0] for _ in range(2)]
    assert twice[0].scores == twice[1].scores
    assert twice[0].scores is not None
    assert twice[0].failed is None


def test_one_that_cannot_be_imported_fails_each_trial_with_the_reason():
    records = run_outside("not_there:method", trials("method")[:1], 60.0)
    assert records[0].failed is not None
    assert "cannot be imported (No module named 'not_there')" in records[0].failed


def test_it_runs_in_a_worker_of_several_as_it_does_alone():
    jobs = [("outside_methods:method", trials("method")[n : n + 1], 60.0) for n in range(2)]
    alone = [run_outside(*job)[0] for job in jobs]
    beside = [records[0] for records in each_done(run_outside, jobs, n_jobs=2)]
    assert [record.failed for record in beside] == [None, None]
    assert {record.seed: record.scores for record in beside} == {record.seed: record.scores for record in alone}
