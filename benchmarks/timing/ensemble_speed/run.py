"""Times an ensemble beside a loop of `train_transcoder`, in one process and with the same threads."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from faithfulness_plugin.benchmarks.note.scan.settings import Settings
from faithfulness_plugin.benchmarks.note.trainer.ensemble import train_ensemble
from faithfulness_plugin.benchmarks.note.trainer.member import ToyMember
from faithfulness_plugin.benchmarks.note.trainer.program import Program
from faithfulness_plugin.benchmarks.note.trainer.weights import training_transcoder
from faithfulness_plugin.benchmarks.timing.ensemble_speed.schema import (
    Compared,
    EnsembleSpeedConfig,
    EnsembleSpeedResult,
    Line,
    Quartiles,
)
from faithfulness_plugin.results.result_file import RESULT_FILENAME, begin_or_go_on
from faithfulness_plugin.results.schema import Environment, processor, write_text
from faithfulness_plugin.results.threads import torch_threads
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.toy.abs_network import AbsNetwork
from faithfulness_plugin.training.train import train_transcoder

OBJECTIVES: dict[str, dict[str, Any]] = {
    "no Jacobian term": {},
    "Jacobian (jittered jvp)": {"jacobian_coefficient": 10.0, "jitter": 0.5},
    "secant": {"jacobian_coefficient": 10.0, "estimator": "secant"},
}


def open_result(out: Path, config: EnsembleSpeedConfig, *, overwrite: bool = False) -> EnsembleSpeedResult:
    """The result that stands in `out`, or an empty one. Raises ResultError as `begin_or_go_on`."""
    fresh = EnsembleSpeedResult(
        complete=False,
        environment=Environment.here(),
        config=config,
        processor=processor(),
        compared=[],
        lines=[],
    )
    return begin_or_go_on(out, fresh, overwrite=overwrite)


def complete(
    result: EnsembleSpeedResult, out: Path, on_step: Callable[[str], None] = lambda _: None
) -> EnsembleSpeedResult:
    """Measures everything and writes it."""
    config = result.config
    with torch_threads(config.threads):
        compared = [compare(config, name, on_step) for name in OBJECTIVES]
        lines = [line(config, "models", on_step), line(config, "steps", on_step)]
    result = result.model_copy(update={"compared": compared, "lines": lines, "complete": True})
    write_text(out / RESULT_FILENAME, result.model_dump_json(indent=1))
    return result


def members(config: EnsembleSpeedConfig, objective: str, n: int) -> list[ToyMember]:
    """Of a seed each, so that nothing is shared between them."""
    seeds = range(config.seed, config.seed + n)
    return [Settings(**OBJECTIVES[objective], seed=seed).member() for seed in seeds]


def compare(config: EnsembleSpeedConfig, objective: str, on_step: Callable[[str], None]) -> Compared:
    """One objective: the same members and steps, both ways, in rounds."""
    of = members(config, objective, config.n_models)
    model_steps = config.n_models * config.n_steps
    flops = sum(Program.of(member).flops for member in of) * config.n_steps
    _train_ensemble(of[:2], 20)
    _train_loop(of[:1], 20)
    loop, ensemble, peak = [], [], []
    for n in range(config.rounds):
        on_step(f"{objective}: round {n + 1} of {config.rounds}")
        ensemble.append(_seconds(lambda: _train_ensemble(of, config.n_steps)))
        loop.append(_seconds(lambda: _train_loop(of, config.n_steps)))
        peak.append(matrix_product_peak(config.peak_size))
    seconds, rates = np.array(ensemble), flops / np.array(ensemble)
    return Compared(
        objective=objective,
        loop=_quartiles(1e3 * np.array(loop) / model_steps),
        ensemble=_quartiles(1e3 * seconds / model_steps),
        ratio=_quartiles(np.array(loop) / seconds),
        gigaflops=_quartiles(rates / 1e9),
        share_of_peak=_quartiles(rates / np.array(peak)),
    )


def line(config: EnsembleSpeedConfig, over: Any, on_step: Callable[[str], None]) -> Line:
    """Seconds over the number of models, or of steps (the same numbers, times five)."""
    numbers = list(config.line) if over == "models" else [5 * n for n in config.line]
    rounds = []
    for n in range(config.rounds):
        on_step(f"line over {over}: round {n + 1} of {config.rounds}")
        if over == "models":
            jobs = [(members(config, "no Jacobian term", number), config.n_steps) for number in numbers]
        else:
            jobs = [(members(config, "no Jacobian term", 16), number) for number in numbers]
        rounds.append([_seconds(lambda job=job: _train_ensemble(*job)) for job in jobs])
    seconds = np.median(np.array(rounds), axis=0)
    slope, intercept = np.polyfit(numbers, seconds, 1)
    residual = seconds - (slope * np.array(numbers) + intercept)
    return Line(
        over=over,
        numbers=numbers,
        seconds=seconds.tolist(),
        slope=float(slope),
        intercept=float(intercept),
        r_squared=float(1 - residual.var() / seconds.var()),
    )


def matrix_product_peak(size: int) -> float:
    """Floating-point operations a second of one square single-precision product, the best of three."""
    a, out = torch.randn(size, size), torch.empty(size, size)
    torch.mm(a, a, out=out)
    return 2 * size**3 / min(_seconds(lambda: torch.mm(a, a, out=out)) for _ in range(3))


def _train_ensemble(of: list[ToyMember], n_steps: int) -> None:
    train_ensemble(of, AbsNetwork(of[0].transcoder.d_in), n_steps=n_steps, progress=False)


def _train_loop(of: list[ToyMember], n_steps: int) -> None:
    for member in of:
        torch.manual_seed(derived_seed(member.seed, "weights"))
        transcoder = training_transcoder(member.transcoder)
        layer = AbsNetwork(member.transcoder.d_in)
        train_transcoder(transcoder, layer, member.inputs(), n_steps=n_steps, log_every=n_steps, progress=False)


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _quartiles(values: np.ndarray) -> Quartiles:
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return Quartiles(median=median, low=low, high=high)
