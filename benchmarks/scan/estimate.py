"""How long a scan will take, from a few steps of it."""

import time
from collections.abc import Sequence
from typing import Any

from faithfulness_plugin.benchmarks.scan.shard import train_shard
from faithfulness_plugin.benchmarks.scan.spec import Point, ScanSpec
from faithfulness_plugin.toy.program import Program

SHORT, LONG = 10, 60


def seconds(spec: ScanSpec, parts: Sequence[Sequence[Point]], n_workers: int) -> float:
    """Wall-clock seconds for these parts, given that many workers with a core each.

    Of every program one part is trained for a few steps, twice: the difference is what a step costs, the rest what
    setting up and measuring cost.
    """
    timed: dict[Any, tuple[float, float]] = {}
    total = 0.0
    for part in parts:
        settings = spec.settings(part[0])
        kind = (Program.of(settings.member()), settings.layer, len(part))
        if kind not in timed:
            train_shard(_shortened(spec, 1), part[:1], None)  # what is made once
            short, long = (_seconds(_shortened(spec, n), part) for n in (SHORT, LONG))
            step = max(0.0, long - short) / (LONG - SHORT)
            timed[kind] = step, max(0.0, short - SHORT * step)
        step, once = timed[kind]
        total += once + settings.n_steps * step
    return total / max(1, min(n_workers, len(parts)))


def _shortened(spec: ScanSpec, n_steps: int) -> ScanSpec:
    """The same scan with that many steps, wherever they are set."""
    changed = {
        "base": {**spec.base, "n_steps": n_steps},
        "arms": {arm: {k: v for k, v in of.items() if k != "n_steps"} for arm, of in spec.arms.items()},
        "grid": {name: values for name, values in spec.grid.items() if name != "n_steps"},
    }
    return spec.model_copy(update=changed)


def _seconds(spec: ScanSpec, part: Sequence[Point]) -> float:
    start = time.perf_counter()
    points = [p.model_copy(update={"values": {k: v for k, v in p.values.items() if k != "n_steps"}}) for p in part]
    train_shard(spec, points, None)
    return time.perf_counter() - start
