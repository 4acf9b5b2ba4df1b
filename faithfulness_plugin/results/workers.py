"""Many jobs on this machine's cores, or on a Ray cluster, by joblib; a worker that dies costs its job a second try."""

import logging
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

from joblib import Parallel, delayed, effective_n_jobs, parallel_config
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import BrokenProcessPool

from faithfulness_plugin.extras import require_extra

Backend = Literal["local", "ray"]
T = TypeVar("T")
ATTEMPTS = 3


class WorkerError(RuntimeError):
    """Workers died again and again; the message says what to do."""


def n_workers(n_jobs: int, backend: Backend = "local") -> int:
    """Compute how many jobs run at a time.

    Args:
        n_jobs: how many are wanted; -1 for one per core, or for all of the cluster.
        backend: where jobs run.

    Returns:
        How many there will be.
    """
    with _configured(n_jobs, backend):
        return effective_n_jobs(n_jobs)


def run_jobs(
    function: Callable[..., T],
    jobs: Sequence[tuple[Any, ...]],
    *,
    n_jobs: int,
    backend: Backend = "local",
    on_death: Callable[[int], None] = lambda _: None,
) -> Iterator[T]:
    """Run function(*job) for each job, on several workers.

    Where a worker dies (the kernel may kill one for memory), the jobs that have not ended are started again, after
    `on_death`; what the function has saved by then is its own business.

    Args:
        function: what to run; it has to be importable.
        jobs: its arguments, one tuple a job.
        n_jobs: jobs at a time; -1 for one per core, or for all of the cluster.
        backend: where jobs run.
        on_death: receives the number of jobs that are started again.

    Yields:
        The results, in the order in which jobs end (on Ray, in rounds of one job a worker).

    Raises:
        WorkerError: workers died three times in a row before any job ended.
        ImportError: the backend "ray" without Ray.
    """
    if backend == "local" and (n_jobs == 1 or len(jobs) < 2):
        yield from (function(*job) for job in jobs)
        return
    left, deaths = dict(enumerate(jobs)), 0
    while left:
        try:
            for number, result in _results(function, left, n_jobs, backend):
                del left[number]
                deaths = 0
                yield result
        except BaseException as error:
            if backend == "local":
                get_reusable_executor().shutdown(wait=False, kill_workers=True)
            if not (isinstance(error, BrokenProcessPool) or type(error).__module__.startswith("ray.exceptions")):
                raise  # about what the worker did
            deaths += 1
            if deaths == ATTEMPTS:
                raise WorkerError(
                    f"workers died {deaths} times in a row, perhaps for want of memory: run fewer at a time (--jobs), "
                    "or smaller parts (--shard-size); what is done is kept"
                ) from error
            on_death(len(left))


def _results(
    function: Callable[..., T], left: Mapping[int, tuple[Any, ...]], n_jobs: int, backend: Backend
) -> Iterator[tuple[int, T]]:
    """Yield (number, result) of these jobs as they end. joblib's Ray backend returns whole lists only: there they come
    in rounds, one job a worker."""
    calls = [delayed(_numbered)(function, number, job) for number, job in left.items()]
    with _configured(n_jobs, backend):
        if backend == "local":
            yield from cast(Iterator[tuple[int, T]], Parallel(return_as="generator_unordered")(calls))
            return
        size = effective_n_jobs(n_jobs)
        for start in range(0, len(calls), size):
            yield from cast(list[tuple[int, T]], Parallel()(calls[start : start + size]))


def _numbered(function: Callable[..., T], number: int, job: tuple[Any, ...]) -> tuple[int, T]:
    return number, function(*job)


def _configured(n_jobs: int, backend: Backend) -> Any:
    if backend == "local":
        return parallel_config(backend="loky", n_jobs=n_jobs, initializer=_leave_interrupts_to_the_parent)
    require_extra("ray", "ray")
    import ray
    from ray.util.joblib import register_ray

    register_ray()
    if not ray.is_initialized():  # the cluster of RAY_ADDRESS, or one on this machine
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    return parallel_config(backend="ray", n_jobs=n_jobs)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
