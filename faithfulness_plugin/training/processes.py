"""Several processes that train one transcoder, each on its share of every batch (torchrun)."""

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.messages import one_line

T = TypeVar("T")

TIMEOUT = timedelta(minutes=5)
"""The time that one process waits for the others to join."""
LONG = timedelta(hours=12)
"""The time that it waits for them later on: the first may fill a store, or evaluate."""


class ProcessError(RuntimeError):
    """The processes could not work together; the message says what to do."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> "Processes":
        """Ask torch.distributed for this process's place.

        Returns:
            The place; one process alone where torch.distributed was not started.
        """
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def several(self) -> bool:
        return self.size > 1

    @property
    def first(self) -> bool:
        """Whether this one writes, evaluates and prints."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.several:
            distributed.barrier()

    def mean(self, values: Tensor) -> Tensor:
        """Average over the processes.

        Args:
            values: this process's numbers, of one shape everywhere.

        Returns:
            The means, in every process.
        """
        return self.sum(values) / self.size

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes.

        Args:
            values: this process's numbers, of one shape everywhere.

        Returns:
            The sums, in every process.
        """
        return self._reduced(values, "SUM")

    def least(self, values: Tensor) -> Tensor:
        """Take the minimum over the processes, number by number.

        Args:
            values: this process's numbers, of one shape everywhere.

        Returns:
            The minima, in every process.
        """
        return self._reduced(values, "MIN")

    def _reduced(self, values: Tensor, operation: str) -> Tensor:
        values = values.clone()
        if self.several:
            distributed.all_reduce(values, op=getattr(distributed.ReduceOp, operation))
        return values

    def from_first(self, value: Any) -> Any:
        """Hand the first process's value to all.

        Args:
            value: the value of the first process; what the others pass is not looked at.

        Returns:
            That value, in every process.
        """
        values = [value]
        if self.several:
            distributed.broadcast_object_list(values, src=0)
        return values[0]

    def first_does(self, do: Callable[[], T]) -> T | None:
        """Let the first process do something, and the others wait for its end.

        Args:
            do: what it does.

        Returns:
            What `do` returns in the first process, and None in the others.

        Raises:
            UsageError: in the first process, as it was raised there.
            AbortedByRankZero: in the others, where the first raised a UsageError.
        """
        done, problem = None, None
        if self.first:
            try:
                done = do()
            except UsageError as error:
                problem = error
        if self.from_first(problem is not None):
            raise problem if problem is not None else AbortedByRankZero
        return done


class AbortedByRankZero(Exception):
    """The first process ended the run; it has said why."""


@contextmanager
def joined(device: str, timeout: timedelta = TIMEOUT) -> Iterator[Processes]:
    """Join the processes that torchrun started (RANK and WORLD_SIZE are set); one alone without torchrun.

    Args:
        device: "cuda" joins them by NCCL, with a device for each process; others by gloo.
        timeout: how long to wait for all of them.

    Yields:
        This process's place among them.

    Raises:
        ProcessError: not all of them come within the timeout, or one is lost on the way.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ or Processes.here().several:
        yield Processes.here()
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        store, rank, size = next(rendezvous("env://", timeout=timeout))
        store.set(f"process {rank} is here", "")
        store.wait([f"process {other} is here" for other in range(size)], timeout)
    except (RuntimeError, ValueError) as error:
        raise ProcessError(
            f"process {os.environ['RANK']} did not find the {os.environ['WORLD_SIZE']} processes that WORLD_SIZE "
            f"promises within {timeout.total_seconds():.0f} s: start all of them, with torchrun on every machine "
            f"({one_line(error)})"
        ) from error
    backend = "nccl" if device == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=LONG)
    try:
        yield Processes.here()
    except BaseException as error:
        # What the frames hold goes before the group. As its last owner DistributedDataParallel would wait for gloo's
        # thread, and keep the interpreter's lock, for which that thread may be waiting: the process would hang.
        traceback.clear_frames(error.__traceback__)
        if not (isinstance(error, RuntimeError) and lost_another(error)):
            raise
        raise ProcessError(
            f"process {os.environ['RANK']} lost another one ({one_line(error)}): see what that one says; the last "
            "checkpoint is as it was"
        ) from error
    finally:
        distributed.destroy_process_group()


def lost_another(error: BaseException) -> bool:
    """Tell whether an error is about another process rather than about this one's work.

    Args:
        error: the error.

    Returns:
        Whether it is.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    words = ("Connection closed by peer", "Connection reset by peer", "Timed out", "gloo", "NCCL", "Broken pipe")
    return isinstance(error, distributed.DistError) or any(word in str(error) for word in words)
