"""The toy ensemble beside a loop of `train_transcoder`, in one process with the same threads."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.benchmarks.note.scan.settings import Settings
from faithfulness_plugin.benchmarks.note.trainer.ensemble import train_ensemble
from faithfulness_plugin.benchmarks.note.trainer.member import ToyMember
from faithfulness_plugin.benchmarks.note.trainer.program import Program
from faithfulness_plugin.benchmarks.timing.configs import EnsembleSpeedConfig
from faithfulness_plugin.benchmarks.timing.harness import (
    Measurement,
    MeasurementResult,
    Note,
    Part,
    Quartiles,
    paired,
)
from faithfulness_plugin.results.markdown import markdown_table
from faithfulness_plugin.results.schema import Record
from faithfulness_plugin.results.timing import in_turn, seconds
from faithfulness_plugin.toy.abs_network import AbsNetwork
from faithfulness_plugin.training.train import train_transcoder
from faithfulness_plugin.transcoders.seeded import made_with_seed

UNMATCHED = "no Jacobian term"
OBJECTIVES: dict[str, dict[str, Any]] = {
    UNMATCHED: {},
    "Jacobian (jittered jvp)": {"jacobian_coefficient": 10.0, "jitter": 0.5},
    "secant": {"jacobian_coefficient": 10.0, "estimator": "secant"},
}
LINES: tuple[Literal["models", "steps"], ...] = ("models", "steps")
LINE_MODELS = 16
"""The number of models in the ensembles of the line over steps."""
WARM_UP_STEPS = 20


class Compared(Record):
    """One objective."""

    objective: str
    loop: Quartiles = Field(description="milliseconds a model and step, set-up included, of train_transcoder in a loop")
    ensemble: Quartiles = Field(description="milliseconds a model and step, set-up included, of train_ensemble")
    ratio: Quartiles = Field(description="loop / ensemble, paired by round")
    gigaflops: Quartiles = Field(description="rate of the ensemble's matrix products alone, over all of its time")
    share_of_peak: Quartiles = Field(
        description="that rate as a share of one large matrix product's, measured in the same round"
    )


class Line(Record):
    """Seconds against a number, with a straight line through them (least squares)."""

    over: Literal["models", "steps"]
    numbers: list[int]
    seconds: list[float] = Field(description="medians over rounds")
    slope: float
    intercept: float
    r_squared: float


class EnsembleSpeedResult(MeasurementResult):
    """All objectives and lines, or as many as were measured."""

    benchmark: Literal["ensemble-speed"] = "ensemble-speed"
    schema_version: Literal[1] = 1
    config: EnsembleSpeedConfig
    processor: str
    compared: list[Compared] = Field(default_factory=list)
    lines: list[Line] = Field(default_factory=list)


class Ensemble(Measurement[EnsembleSpeedConfig, EnsembleSpeedResult]):
    """One part for each objective and each line."""

    config_class, result_class = EnsembleSpeedConfig, EnsembleSpeedResult

    @override
    def plan(self, config: EnsembleSpeedConfig) -> list[Part]:
        compared = [Part(name, "compared", partial(_compare, config, name)) for name in OBJECTIVES]
        return [*compared, *(Part(f"line over {over}", "lines", partial(_fit_line, config, over)) for over in LINES)]

    @override
    def tables(self, result: EnsembleSpeedResult) -> str:
        c = result.config
        columns: dict[str, Callable[[Compared], str]] = {
            "objective": lambda of: of.objective,
            "train_transcoder, ms a model and step": lambda of: of.loop.text(2),
            "train_ensemble, ms": lambda of: of.ensemble.text(3),
            "ratio": lambda of: of.ratio.text(1),
            "GFLOP/s in matrix products": lambda of: of.gigaflops.text(1),
            "share of peak": lambda of: of.share_of_peak.text(2),
        }
        rows = [[cell(of) for cell in columns.values()] for of in result.compared]
        lines = (
            f"Over {of.over} ({of.numbers[0]} to {of.numbers[-1]}) time grows by {1e3 * of.slope:.2f} ms each, from "
            f"{of.intercept:.2f} s, along a straight line (R² {of.r_squared:.4f})."
            for of in result.lines
        )
        unfinished = [] if result.complete else ["PARTIAL: not everything was measured."]
        caption = (
            f"{c.n_models} transcoders (d_in 16, d_sae 64, batch 256) of different seeds, {c.n_steps} steps, set-up "
            f"included, both in one process with {c.threads} thread{'s' * (c.threads > 1)} of {result.processor}, "
            f"torch {result.environment.packages['torch']}. Medians over {c.rounds} rounds (quartiles). Peak: one "
            f"product of matrices {c.peak_size:,} wide, single precision. {' '.join([*lines, *unfinished])}"
        )
        return f"{markdown_table(list(columns), rows)}\n\n{caption}\n"


def _compare(config: EnsembleSpeedConfig, objective: str, note: Note) -> Compared:
    """Train the same members for the same steps, as an ensemble and in a loop."""
    members, model_steps = _members(config, objective, config.n_models), config.n_models * config.n_steps
    flops = config.n_steps * sum(Program.of(member).flops for member in members)
    _train_ensemble(members[:2], WARM_UP_STEPS)
    _train_loop(members[:1], WARM_UP_STEPS)
    measured = in_turn(
        {
            "ensemble": partial(seconds, partial(_train_ensemble, members, config.n_steps)),
            "loop": partial(seconds, partial(_train_loop, members, config.n_steps)),
            "one product": partial(_matrix_product_peak, config.peak_size),
        },
        config.rounds,
        warm_up=0,
        seed=config.seed,
        note=note,
    )
    loop, ensemble = measured["loop"], measured["ensemble"]
    rates = [flops / taken for taken in ensemble]
    return Compared(
        objective=objective,
        loop=Quartiles.of([1e3 * taken / model_steps for taken in loop]),
        ensemble=Quartiles.of([1e3 * taken / model_steps for taken in ensemble]),
        ratio=Quartiles.of(paired(loop, ensemble)),
        gigaflops=Quartiles.of([rate / 1e9 for rate in rates]),
        share_of_peak=Quartiles.of(paired(rates, measured["one product"])),
    )


def _fit_line(config: EnsembleSpeedConfig, over: Literal["models", "steps"], note: Note) -> Line:
    """Fit seconds over the number of models, or of steps (the same numbers, times five)."""
    if over == "models":
        jobs = {n: (_members(config, UNMATCHED, n), config.n_steps) for n in config.line}
    else:
        jobs = {5 * n: (_members(config, UNMATCHED, LINE_MODELS), 5 * n) for n in config.line}
    arms = {n: partial(seconds, partial(_train_ensemble, *job)) for n, job in jobs.items()}
    measured = in_turn(arms, config.rounds, warm_up=0, seed=config.seed, note=note)
    numbers, medians = np.array(list(measured)), np.median(list(measured.values()), axis=1)
    slope, intercept = np.polyfit(numbers, medians, 1)
    residual = medians - (slope * numbers + intercept)
    return Line(
        over=over,
        numbers=numbers.tolist(),
        seconds=medians.tolist(),
        slope=float(slope),
        intercept=float(intercept),
        r_squared=float(1 - residual.var() / medians.var()),
    )


def _matrix_product_peak(size: int) -> float:
    """Measure the floating-point operations a second of one square single-precision product, the best of three."""
    a, out = torch.randn(size, size), torch.empty(size, size)
    return 2 * size**3 / min(seconds(lambda: torch.mm(a, a, out=out)) for _ in range(4))


def _members(config: EnsembleSpeedConfig, objective: str, n: int) -> list[ToyMember]:
    """Return members of a seed each, so that they share nothing."""
    seeds = range(config.seed, config.seed + n)
    return [Settings(**OBJECTIVES[objective], seed=seed).member() for seed in seeds]


def _train_ensemble(members: Sequence[ToyMember], n_steps: int) -> None:
    train_ensemble(members, AbsNetwork(members[0].transcoder.d_in), n_steps=n_steps, progress=False)


def _train_loop(members: Sequence[ToyMember], n_steps: int) -> None:
    for member in members:
        transcoder = made_with_seed(member.transcoder, member.seed)
        layer = AbsNetwork(member.transcoder.d_in)
        train_transcoder(transcoder, layer, member.inputs(), n_steps=n_steps, log_every=n_steps, progress=False)
