"""Trials of anybody's method, in a process of their own: what it does to that process it does to one trial alone."""

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Thread
from time import perf_counter, sleep
from typing import Any

import torch
from torch import Tensor

from faithfulness_plugin.benchmarks.note.trainer.rows import RowInputs
from faithfulness_plugin.benchmarks.suite.schema import Trial, TrialRecord

START_LIMIT = 300.0
"""Seconds that a process may take to import what it needs."""


class LayerInputs(RowInputs):
    """What `Method.train` is given: endless batches, and the widths of the layer."""

    def __init__(self, source: Any, d_out: int, batch_size: int, seed: int) -> None:
        super().__init__(source, batch_size, seed)
        self.d_in, self.d_out = source.d_in, d_out


class OutsideWorker:
    """Runs one outside method's trials, one at a time. A context manager: its process ends with it."""

    def __init__(self, reference: str, time_limit: float) -> None:
        self.reference, self.time_limit = reference, time_limit
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> "OutsideWorker":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(self, trial: Trial) -> TrialRecord:
        """The trial's record. A method that raises, hangs, kills its process, or returns what cannot be scored fails
        this trial; the next one gets a new process where it is needed."""
        if self._connection is None:
            problem = self._start()
            if problem is not None:
                return TrialRecord(**trial.model_dump(), failed=problem, seconds=0.0)
        assert self._connection is not None
        assert self._process is not None
        start = perf_counter()
        try:
            self._connection.send(trial.model_dump())
            if self._connection.poll(self.time_limit):
                return TrialRecord.model_validate(self._connection.recv())
            failed = f"no transcoder after {self.time_limit:g} seconds (--time-limit)"
        except (EOFError, OSError):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            failed = f"its process died (exit code {self._process.returncode})"
        self._stop()
        return TrialRecord(**trial.model_dump(), failed=failed, seconds=perf_counter() - start)

    def _start(self) -> str | None:
        """Starts the process; what is wrong with it, if anything is."""
        here, there = Pipe()
        # not by multiprocessing: a joblib worker cannot spawn by it, and a fork would copy the locks of threads
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve({there.fileno()}, {self.reference!r})"],
            pass_fds=[there.fileno()],
            stdout=sys.__stderr__.fileno() if sys.__stderr__ else None,  # what it prints is no part of the result
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,  # an interrupt is the parent's business, which then ends this process
        )
        there.close()
        self._connection = here
        try:
            ready = here.recv() if here.poll(START_LIMIT) else f"its process did not start in {START_LIMIT:g} seconds"
        except EOFError:
            ready = "its process died while the method was imported"
        if ready is not None:
            self._stop()
        return ready

    def _stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # and what it has started
            self._process.wait()
        self._process = self._connection = None


def run_outside(reference: str, trials: Sequence[Trial], time_limit: float) -> list[TrialRecord]:
    """The records of these trials of one method."""
    with OutsideWorker(reference, time_limit) as worker:
        return [worker.run(trial) for trial in trials]


def serve(descriptor: int, reference: str) -> None:
    """The process: trials in, records out, until the other end closes."""
    from faithfulness_plugin.benchmarks.methods.registry import MethodError, outside

    Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    connection = Connection(descriptor)
    torch.set_num_threads(1)
    try:
        method = outside(reference)
    except MethodError as error:
        connection.send(str(error))
        return
    connection.send(None)
    while True:
        try:
            trial = Trial.model_validate(connection.recv())
        except EOFError:
            return
        connection.send(train_and_score(method, trial).model_dump())


def _end_with(parent: int) -> None:
    """Ends this process, and what it has started, once its parent is gone: a method that hangs would stay."""
    while os.getppid() == parent:
        sleep(1)
    os.killpg(0, signal.SIGKILL)


def train_and_score(method: Any, trial: Trial) -> TrialRecord:
    """One trial of any method, in this process. Failures are told in the record."""
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
            _require_fit(transcoder, hop.clean[:8], hop.layer.W_out.shape[1])
            transcoders.append(transcoder)
    except Exception as error:  # a method may raise anything
        where = traceback.extract_tb(error.__traceback__)[-1]
        message = str(error).splitlines()[0] if str(error) else ""
        failed = f"{type(error).__name__}: {message} ({os.path.basename(where.filename)}, line {where.lineno})"
        return TrialRecord(**trial.model_dump(), failed=failed, seconds=perf_counter() - start)
    return scored(trial, transcoders, perf_counter() - start)


@torch.no_grad()
def _require_fit(transcoder: Any, x: Tensor, d_out: int) -> None:
    """Raises ValueError, saying what is missing, for what is no transcoder of this width, or has NaN or Inf."""
    for name in ("encode", "decode", "W_dec"):
        if not hasattr(transcoder, name):
            raise ValueError(f"`train` returned a {type(transcoder).__name__} without {name}: return a transcoder")
    getattr(transcoder, "eval", bool)()
    acts, y = transcoder.encode(x), transcoder(x)
    wanted = {"encode(x)": (acts, (len(x), len(transcoder.W_dec))), "transcoder(x)": (y, (len(x), d_out))}
    wanted["W_dec"] = (transcoder.W_dec, (len(transcoder.W_dec), d_out))
    for name, (tensor, shape) in wanted.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} is a {type(tensor).__name__}, not a tensor")
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {list(tensor.shape)}, not {list(shape)}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} has NaN or Inf")
