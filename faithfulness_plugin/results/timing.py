"""How long things take: arms that run in turn in one process, its threads, and the peak of its memory."""

import random
import resource
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

T_ARM = TypeVar("T_ARM", bound=str | int | float)
T_MEASURED = TypeVar("T_MEASURED")


def seconds(function: Callable[[], Any], device: str | torch.device = "cpu") -> float:
    """Time one call, until the device has finished what the call started.

    Args:
        function: what to call.
        device: where it computes.

    Returns:
        Wall time in seconds.
    """
    _synchronize(device)
    begun = time.perf_counter()
    function()
    _synchronize(device)
    return time.perf_counter() - begun


def _synchronize(device: str | torch.device) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Let torch compute with this many threads within, or, as a decorator, while the function runs.

    Args:
        n: the number of threads.

    Yields:
        Nothing; the number from before is restored at the end.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_turn(
    arms: Mapping[T_ARM, Callable[[], T_MEASURED]],
    rounds: int,
    *,
    warm_up: int = 1,
    slow: Collection[T_ARM] = (),
    slow_rounds: int = 1,
    seed: int = 0,
    before_round: Callable[[], None] = lambda: None,
    note: Callable[[str], None] = lambda _: None,
) -> dict[T_ARM, list[T_MEASURED]]:
    """Measure every arm once a round, in a new order each round.

    What makes a machine slower for a while affects all arms alike, and no arm always follows the same other one.
    Compare arms by pairs of one round.

    Args:
        arms: by name, functions that return what they measured, such as `seconds` of a step.
        rounds: rounds whose measurements count.
        warm_up: rounds whose measurements are dropped.
        slow: arms that are measured in the first `slow_rounds` rounds only, and never for warm-up.
        slow_rounds: see `slow`.
        seed: decides the orders.
        before_round: makes what the arms of a round share.
        note: receives a line with the number of each round as it begins.

    Returns:
        The measurements of each arm, round by round.
    """
    order = random.Random(seed)
    measured: dict[T_ARM, list[T_MEASURED]] = {name: [] for name in arms}
    for n in range(-warm_up, rounds):
        names = [name for name in arms if name not in slow or 0 <= n < slow_rounds]
        note(f"round {n + 1} of {rounds}" if n >= 0 else "warming up")
        before_round()
        for name in order.sample(names, len(names)):
            value = arms[name]()
            if n >= 0:
                measured[name].append(value)
    return measured


def reset_peak_memory(device: str | torch.device = "cpu") -> None:
    """Let `peak_memory` count from now on, where the system can: on Linux and on GPUs.

    Args:
        device: where things are computed.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM of this process alone


def peak_memory(device: str | torch.device = "cpu") -> int:
    """Read the largest resident size of this process, since its start or since `reset_peak_memory`.

    Args:
        device: on a GPU it is what tensors took there.

    Returns:
        Bytes.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # Linux counts what the parent process had into ru_maxrss, and not into this
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
