"""Trials of anybody's method, in a process of their own: what it does to that process it does to one trial alone."""

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Thread
from time import perf_counter, sleep
from typing import Any

import torch
from torch import Tensor

from faithfulness_plugin.benchmarks.note.trainer.rows import RowInputs
from faithfulness_plugin.benchmarks.suite.schema import Trial, TrialRecord
from faithfulness_plugin.messages import one_line
from faithfulness_plugin.results.imported import import_object

START_LIMIT = 300.0
"""Seconds that a process may take to import what it needs."""
TAKES = (
    "faithfulness_plugin.benchmarks.methods.baselines",
    "faithfulness_plugin.benchmarks.suite.trials",
    "faithfulness_plugin.benchmarks.tasks.task",
    "faithfulness_plugin.training.train",
    "faithfulness_plugin.transcoders.architectures",
)
"""Modules that a trial takes, and most methods."""


class LayerInputs(RowInputs):
    """Gives `Method.train` endless batches, and the widths of the layer.

    Args:
        source: draws rows.
        d_out: width of the layer's output.
        batch_size: rows a batch.
        seed: decides the rows.
    """

    def __init__(self, source: Any, d_out: int, batch_size: int, seed: int) -> None:
        super().__init__(source, batch_size, seed)
        self.d_in, self.d_out = source.d_in, d_out


def run_outside(
    reference: str,
    trials: Sequence[Trial],
    time_limit: float,
    train_and_score: Callable[[Any, Any], Any] | None = None,
    record: type[Any] = TrialRecord,
) -> list[Any]:
    """Run trials of one method, one at a time. A method that raises, hangs, kills its process, or returns what cannot
    be scored fails that trial; the next one gets a new process where it needs one.

    Args:
        reference: the method, as module:attribute.
        trials: what to run.
        time_limit: seconds that a trial may take.
        train_and_score: a module's function that runs one trial of a method; by default that of the first track.
        record: the class of what it returns.

    Returns:
        A record a trial, with scores or the reason of the failure.
    """
    run = train_and_score or _train_and_score
    worker, records = None, []
    try:
        for trial in trials:
            start = perf_counter()
            try:
                worker = worker or _Worker(reference, f"{run.__module__}:{run.__name__}")
                records.append(record.model_validate(worker.run(trial, time_limit)))
            except _WorkerStopped as error:
                worker = None
                records.append(record(**trial.model_dump(), failed=str(error), seconds=perf_counter() - start))
    finally:
        if worker is not None:
            worker.stop()
    return records


class _WorkerStopped(Exception):
    """The process was stopped, or ended by itself; the message says why."""


class _Worker:
    """A process that runs an outside method's trials. Raises _WorkerStopped where it does not start."""

    def __init__(self, reference: str, run: str) -> None:
        self.connection, there = Pipe()
        # not by multiprocessing: a joblib worker cannot spawn by it, and a fork would copy the locks of threads
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve({there.fileno()}, {reference!r}, {run!r})"],
            pass_fds=[there.fileno()],
            stdout=sys.__stderr__.fileno() if sys.__stderr__ else None,  # what it prints is no part of the result
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,  # an interrupt is the parent's business, which then ends this process
        )
        there.close()
        problem = self._receive(START_LIMIT, f"its process did not start in {START_LIMIT:g} seconds")
        if problem is not None:
            self.stop()
            raise _WorkerStopped(problem)

    def run(self, trial: Trial, time_limit: float) -> Any:
        """Return the trial's record, dumped. Raises _WorkerStopped where none comes in time."""
        with suppress(OSError):  # where the process has died, nothing is received
            self.connection.send(trial.model_dump())
        late = f"no transcoder after {time_limit:g} seconds (--time-limit)"
        return self._receive(time_limit, late)

    def stop(self) -> None:
        """End the process, and what it has started."""
        self.connection.close()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _receive(self, limit: float, late: str) -> Any:
        try:
            if self.connection.poll(limit):
                return self.connection.recv()
        except (EOFError, OSError):
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            late = f"its process died (exit code {self.process.returncode})"
        self.stop()
        raise _WorkerStopped(late)


def serve(descriptor: int, reference: str, run: str) -> None:
    """Receive trials and send records, until the other end closes: what the process of an outside method runs.

    Args:
        descriptor: the connection's file descriptor.
        reference: the method, as module:attribute.
        run: the function that runs one trial of it, likewise.
    """
    from faithfulness_plugin.benchmarks.methods.registry import MethodError, import_method

    Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    connection = Connection(descriptor)
    torch.set_num_threads(1)
    train_and_score: Any = import_object(run)
    try:
        method = import_method(reference)
    except MethodError as error:
        connection.send(str(error))
        return
    for module in TAKES:  # before the time of a trial begins
        import_module(module)
    connection.send(None)
    with suppress(EOFError):
        while True:
            trial = Trial.model_validate(connection.recv())
            connection.send(train_and_score(method, trial).model_dump())


def _end_with(parent: int) -> None:
    """End this process, and what it has started, once its parent is gone: a method that hangs would stay."""
    while os.getppid() == parent:
        sleep(1)
    os.killpg(0, signal.SIGKILL)


def _train_and_score(method: Any, trial: Trial) -> TrialRecord:
    """Run one trial of any method in this process. The record says what failed."""
    from faithfulness_plugin.benchmarks.methods.baselines import BATCH_SIZE
    from faithfulness_plugin.benchmarks.suite.trials import scored
    from faithfulness_plugin.benchmarks.tasks.registry import task

    start = perf_counter()
    transcoders = []
    try:
        for hop in task(trial.task).hops:
            torch.manual_seed(trial.seed)
            inputs = LayerInputs(hop.rows, hop.layer.W_out.shape[1], BATCH_SIZE, trial.seed)
            layer = deepcopy(hop.layer)  # what a method does to it is not what it is scored by
            transcoder = method.train(layer, inputs, seed=trial.seed, strength=trial.strength)
            _require_fit(transcoder, hop.clean[:8], inputs.d_out)
            transcoders.append(transcoder)
    except Exception as error:  # a method may raise anything
        return TrialRecord(**trial.model_dump(), failed=where_it_failed(error), seconds=perf_counter() - start)
    return scored(trial, transcoders, perf_counter() - start)


def where_it_failed(error: Exception) -> str:
    """Describe what a method raised.

    Args:
        error: the exception, with its traceback.

    Returns:
        One line, with the file and the line where it was raised.
    """
    where = traceback.extract_tb(error.__traceback__)[-1]
    message = one_line(error) if str(error) else ""
    return f"{type(error).__name__}: {message} ({os.path.basename(where.filename)}, line {where.lineno})"


@torch.no_grad()
def _require_fit(transcoder: Any, x: Tensor, d_out: int) -> None:
    """Raise ValueError, saying what is missing, for what is no transcoder of this width, or has NaN or Inf."""
    for name in ("encode", "decode", "W_dec"):
        if not hasattr(transcoder, name):
            raise ValueError(f"`train` returned a {type(transcoder).__name__} without {name}: return a transcoder")
    getattr(transcoder, "eval", bool)()
    W_dec = transcoder.W_dec
    for name, tensor, shape in (
        ("encode(x)", transcoder.encode(x), [len(x), len(W_dec)]),
        ("transcoder(x)", transcoder(x), [len(x), d_out]),
        ("W_dec", W_dec, [len(W_dec), d_out]),
    ):
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} is a {type(tensor).__name__}, not a tensor")
        if list(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {list(tensor.shape)}, not {shape}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} has NaN or Inf")
