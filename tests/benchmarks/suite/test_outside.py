"""What an outside method does to its process costs one trial."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from faithfulness_plugin.benchmarks.suite.outside import run_outside
from faithfulness_plugin.benchmarks.suite.schema import Trial
from faithfulness_plugin.results.workers import run_jobs

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
def test_a_failure_costs_its_trial_alone_and_is_recorded(how):
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
    beside = [records[0] for records in run_jobs(run_outside, jobs, n_jobs=2)]
    assert [record.failed for record in beside] == [None, None]
    assert {record.seed: record.scores for record in beside} == {record.seed: record.scores for record in alone}


def test_outputs_that_are_no_tensor_fail_with_the_reason():
    _, second, _ = run_outside("outside_methods:is_tuple", trials("is_tuple"), 60.0)
    assert second.failed is not None
    assert "transcoder(x) is a tuple, not a tensor" in second.failed


def test_the_scores_that_are_not_finite_are_named():
    _, second, _ = run_outside("outside_methods:nan_on_some_rows", trials("nan_on_some_rows"), 60.0)
    assert second.failed is not None
    assert re.match(r"NaN or Inf in .*fvu.*: the transcoder's outputs are not finite on all rows", second.failed)


def test_what_a_method_does_to_the_layer_is_its_own_affair():
    changed = run_outside("outside_methods:changes_the_layer", trials("changes_the_layer"), 60.0)
    unchanged = run_outside("outside_methods:method", trials("method"), 60.0)
    assert [record.scores for record in changed] == [record.scores for record in unchanged]


def test_what_a_hanging_method_has_started_ends_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("STARTED", str(tmp_path / "started"))
    _, second, _ = run_outside("outside_methods:starts_another", trials("starts_another"), 5.0)
    assert second.failed is not None
    assert "--time-limit" in second.failed
    assert ended(int((tmp_path / "started").read_text()))


def test_a_hanging_method_ends_with_the_process_that_runs_it(tmp_path):
    started = tmp_path / "started"
    code = (
        "from faithfulness_plugin.benchmarks.suite.outside import run_outside\n"
        "from faithfulness_plugin.benchmarks.suite.schema import Trial\n"
        "trial = Trial(task='absolute_value', method='m', strength=0.1, seed=2)\n"
        "run_outside('outside_methods:starts_another', [trial], 600.0)\n"
    )
    env = {**os.environ, "STARTED": str(started), "PYTHONPATH": os.pathsep.join(sys.path)}
    runs = subprocess.Popen([sys.executable, "-c", code], env=env)
    deadline = time.monotonic() + 120
    while not (started.exists() and started.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    runs.kill()
    runs.wait()
    assert ended(int(started.read_text()))


def ended(process: int) -> bool:
    """Whether a process is gone, or goes within some seconds."""
    for _ in range(100):
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False
