"""Times every arm of a size in rounds, and takes peak memory in fresh processes."""

import json
import random
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from faithfulness_plugin.benchmarks.timing.speed.arms import MEMORY_ARMS, SLOW, Arm, arms
from faithfulness_plugin.benchmarks.timing.speed.schema import Memory, Ratio, Size, SizeResult, SpeedConfig, Timing

MEMORY_STEPS = 3

RATIOS = {
    "TopK step: matched / unmatched": ("topk matched", "topk"),
    "TopK step: matched / SAELens's unmatched": ("topk matched", "SAELens topk"),
    "TopK step: matched / SAELens's unmatched, sparse mode": ("topk matched", "SAELens topk sparse"),
    "TopK step: torch.func.jvp / closed form": ("topk by torch.func.jvp", "topk matched"),
    "TopK step: double vjp / closed form": ("topk by double vjp", "topk matched"),
    "TopK step: a pass per coordinate / closed form": ("topk, a pass per coordinate", "topk matched"),
    "BatchTopK step: matched / unmatched": ("batch topk matched", "batch topk"),
    "Standard step: matched / unmatched": ("standard matched", "standard"),
    "Standard step: matched / SAELens's unmatched": ("standard matched", "SAELens standard"),
    "exact cosine, a row: vmap(jacrev) / Gram": ("exact cosine by vmap(jacrev)", "exact cosine by Gram"),
    "layer: Jv and f / f": ("layer's Jv", "layer"),
}
MEMORY_RATIOS = {
    "peak memory, TopK: matched / unmatched": ("topk matched", "topk"),
    "peak memory, Standard: matched / unmatched": ("standard matched", "standard"),
}


def measure(size: Size, config: SpeedConfig, on_step: Callable[[str], None] = lambda _: None) -> SizeResult:
    """All timings, ratios and peaks of one size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about sparse tensors that SAELens makes
        timings = _timings(size, config, on_step)
    memory = []
    for arm in MEMORY_ARMS:
        on_step(f"{size.name}: memory of {arm}")
        memory.append(Memory(arm=arm, mebibytes=_peak_of_a_fresh_process(size, arm, config)))
    return SizeResult(size=size.name, timings=timings, ratios=_ratios(timings, memory), memory=memory)


def _timings(size: Size, config: SpeedConfig, on_step: Callable[[str], None]) -> list[Timing]:
    every = arms(size, config.device, config.seed, coordinates=config.coordinates, rows=config.jacobian_rows)
    for name, arm in every.items():
        on_step(f"{size.name}: warming up {name}")
        if name not in SLOW:
            arm()
    seconds: dict[str, list[float]] = {name: [] for name in every}
    order = random.Random(config.seed)
    for n in range(config.rounds):
        names = [name for name in every if name not in SLOW or n < config.slow_rounds]
        for name in order.sample(names, len(names)):
            on_step(f"{size.name}: round {n + 1} of {config.rounds}, {name}")
            seconds[name].append(_seconds(every[name], config.device))
    base = statistics.median(seconds["topk, a pass for no coordinate"])
    seconds = {name: _whole(name, times, size, config, base) for name, times in seconds.items()}
    return [Timing(arm=name, seconds=times, median=statistics.median(times)) for name, times in seconds.items()]


def _seconds(arm: Arm, device: str) -> float:
    _settle(device)
    start = time.perf_counter()
    arm()
    _settle(device)
    return time.perf_counter() - start


def _settle(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _whole(name: str, times: list[float], size: Size, config: SpeedConfig, base: float) -> list[float]:
    """Exact cosines a row. And the arm that was timed for some output coordinates alone, extrapolated to all: its cost
    beyond the same step for none of them is proportional to their number."""
    rows = {"exact cosine by Gram": size.batch, "exact cosine by vmap(jacrev)": config.jacobian_rows}
    if name in rows:
        return [t / min(size.batch, rows[name]) for t in times]
    if name != "topk, a pass per coordinate":
        return times
    return [base + max(0.0, t - base) * size.d / min(size.d, config.coordinates) for t in times]


def _ratios(timings: list[Timing], memory: list[Memory]) -> list[Ratio]:
    seconds = {timing.arm: timing.seconds for timing in timings}
    peaks = {peak.arm: [peak.mebibytes] for peak in memory}
    return [
        *(_ratio(name, *pair, seconds) for name, pair in RATIOS.items() if set(pair) <= set(seconds)),
        *(_ratio(name, *pair, peaks) for name, pair in MEMORY_RATIOS.items()),
    ]


def _ratio(name: str, numerator: str, denominator: str, values: dict[str, list[float]]) -> Ratio:
    pairs = zip(values[numerator], values[denominator], strict=False)  # slow arms have fewer rounds
    low, median, high = np.quantile([a / b for a, b in pairs], [0.25, 0.5, 0.75]).tolist()
    return Ratio(name=name, numerator=numerator, denominator=denominator, median=median, low=low, high=high)


def _peak_of_a_fresh_process(size: Size, arm: str, config: SpeedConfig) -> float:
    request = json.dumps({"size": size.model_dump(), "arm": arm, "config": config.model_dump()})
    command = [sys.executable, "-W", "ignore", "-m", "faithfulness_plugin.benchmarks.timing.speed.run", request]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{size.name}, {arm}: the process that measures memory failed: {done.stderr.strip()[-300:]}")
    return float(done.stdout)


def _peak(request: str) -> float:
    """MiB at the peak of this process, after a few steps."""
    wanted = json.loads(request)
    size, config = Size(**wanted["size"]), SpeedConfig(**wanted["config"])
    torch.set_num_threads(config.threads)
    arm = arms(
        size, config.device, config.seed, coordinates=config.coordinates, rows=config.jacobian_rows, only=wanted["arm"]
    )[wanted["arm"]]
    if config.device == "cuda":
        torch.cuda.reset_peak_memory_stats()  # not what making the targets took
    for _ in range(MEMORY_STEPS):
        arm()
    if config.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # Linux counts what the parent had into ru_maxrss, and not into this
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10  # kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes, on macOS


if __name__ == "__main__":
    print(_peak(sys.argv[1]))
