import os
import signal

import pytest

from faithfulness_plugin.results.workers import WorkerError, n_workers, run_jobs


def square(x: int) -> int:
    return x * x


def fails(x: int) -> int:
    if x == 3:
        raise ValueError("three")
    return x


def dies(x: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return x


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_every_job_is_done_once(n_jobs):
    assert sorted(run_jobs(square, [(x,) for x in range(7)], n_jobs=n_jobs)) == [x * x for x in range(7)]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_what_a_job_raises_is_raised(n_jobs):
    with pytest.raises(ValueError, match="three"):
        list(run_jobs(fails, [(x,) for x in range(5)], n_jobs=n_jobs))


def test_workers_that_always_die_are_given_up_with_advice():
    deaths = []
    with pytest.raises(WorkerError, match=r"died 3 times in a row.*--jobs.*what is done is kept"):
        list(run_jobs(dies, [(1,), (2,)], n_jobs=2, on_death=deaths.append))
    assert deaths == [2, 2]


def test_the_number_of_workers():
    assert n_workers(3) == 3
    assert n_workers(-1) >= 1
