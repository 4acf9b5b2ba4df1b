"""What an outside method does to its process costs one trial."""

import re
import time
from pathlib import Path

import forks
import pytest

from faithfulness_plugin.benchmarks.methods.registry import import_method
from faithfulness_plugin.benchmarks.suite.outside import _train_and_score, run_outside
from faithfulness_plugin.benchmarks.suite.schema import Trial, TrialRecord
from faithfulness_plugin.results.workers import run_jobs

FAILURES = {
    "raises": r"RuntimeError: no luck \(outside_methods.py, line \d+\)",
    "is_none": r"returned a Linear without encode",
    "narrow": r"transcoder\(x\) has shape \[8, 15\], not \[8, 16\]",
    "is_nan": r"has NaN or Inf",
    "is_tuple": r"transcoder\(x\) is a tuple, not a tensor",
    "nan_on_some_rows": r"^NaN or Inf in .*fvu.*: the transcoder's outputs are not finite on all rows",
}


def trial(name: str, seed: int = 1) -> Trial:
    return Trial(task="absolute_value", method=f"outside_methods:{name}", strength=0.1, seed=seed)


def here(name: str, seed: int = 1) -> TrialRecord:
    """A trial's record, from this process."""
    return _train_and_score(import_method(f"outside_methods:{name}"), trial(name, seed))


def test_a_failure_costs_its_trial_alone_and_is_recorded(tmp_path, monkeypatch):
    """One process runs the trials until it hangs or dies, and then another. What a hanging method has started ends."""
    monkeypatch.setenv("STARTED", str(tmp_path / "started"))
    trials = [trial("in_turn", seed) for seed in range(1, 6)]
    good, raises, hangs, dies, last = run_outside("outside_methods:in_turn", trials, time_limit=5.0)
    assert raises.failed is not None
    assert re.search(FAILURES["raises"], raises.failed)
    assert hangs.failed == "no transcoder after 5 seconds (--time-limit)"
    assert dies.failed == "its process died (exit code 7)"
    for record in (good, last):
        assert record.failed is None
        assert record.scores is not None
        assert record.scores == here("method", record.seed).scores  # a new process gives the same
    assert ended(int((tmp_path / "started").read_text()))


@pytest.mark.parametrize("how", FAILURES)
def test_what_cannot_be_scored_is_recorded_and_the_next_trial_runs(how):
    first, second, third = (here(how, seed) for seed in (1, 2, 3))
    assert first.scores is not None
    assert third.scores is not None
    assert second.scores is None
    assert second.failed is not None
    assert re.search(FAILURES[how], second.failed), second.failed


def test_equal_seeds_give_equal_scores():
    assert here("method").scores == here("method").scores != here("method", 2).scores


def test_one_that_cannot_be_imported_fails_each_trial_with_the_reason():
    records = run_outside("not_there:method", [trial("method")], 60.0)
    assert records[0].failed is not None
    assert "cannot be imported (No module named 'not_there')" in records[0].failed


@pytest.mark.usefixtures("forking_workers")
def test_it_runs_in_a_worker_of_several_as_it_does_alone():
    jobs = [("outside_methods:method", [trial("method")], 60.0), ("outside_methods:method", [], 60.0)]
    ((beside,),) = (records for records in run_jobs(run_outside, jobs, n_jobs=2) if records)
    assert beside.failed is None
    assert beside.scores == here("method").scores


def test_what_a_method_does_to_the_layer_is_its_own_affair():
    for seed in (1, 2):
        assert here("changes_the_layer", seed).scores == here("method", seed).scores


def test_a_hanging_method_ends_with_the_process_that_runs_it(tmp_path):
    started = tmp_path / "started"
    code = (
        "from faithfulness_plugin.benchmarks.suite.outside import run_outside\n"
        "from faithfulness_plugin.benchmarks.suite.schema import Trial\n"
        "trial = Trial(task='absolute_value', method='m', strength=0.1, seed=2)\n"
        "run_outside('outside_methods:starts_another', [trial], 600.0)\n"
    )
    runs = forks.start(code, environment={"STARTED": str(started)})
    deadline = time.monotonic() + 120
    while not (started.exists() and started.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    runs.process.kill()
    runs.process.join()
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
