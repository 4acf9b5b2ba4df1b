"""What matching costs: step times and peak memory of its ways, beside SAELens's own steps."""

import statistics
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.benchmarks.timing.configs import Size, SpeedConfig
from faithfulness_plugin.benchmarks.timing.harness import (
    Measurement,
    MeasurementResult,
    Note,
    Part,
    Quartiles,
    fresh_process,
    paired,
)
from faithfulness_plugin.benchmarks.timing.steps import SLOW, steps
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.results.markdown import markdown_table
from faithfulness_plugin.results.schema import Environment, Record
from faithfulness_plugin.results.timing import in_turn, seconds

MEMORY_ARMS = (
    "topk all in",
    "topk all in, pair probes",
    "topk",
    "topk matched",
    "standard",
    "standard matched",
    "SAELens topk",
    "SAELens topk sparse",
)
RATIOS = {
    "layer: f and Jv, pair probes / f": ("layer's f and Jv, pair probes", "layer"),
    "layer: f and Jv, isotropic / f": ("layer's f and Jv, isotropic", "layer"),
    "layer: f and Jv by forward mode / f": ("layer's Jv", "layer"),
    "TopK, all in: pair probes / unmatched": ("topk all in, pair probes", "topk all in"),
    "TopK, all in: secants half-way along pairs / unmatched": ("topk all in, secants", "topk all in"),
    "BatchTopK, all in: pair probes / unmatched": ("batch topk all in, pair probes", "batch topk all in"),
    "Standard, all in: pair probes / unmatched": ("standard all in, pair probes", "standard all in"),
    "TopK, all in: pair probes / SAELens's unmatched": ("topk all in, pair probes", "SAELens topk all in"),
    "TopK, all in, pair probes: bfloat16 / float32": ("topk all in, pair probes, bfloat16", "topk all in, pair probes"),
    "Standard, all in, pair probes: bfloat16 / float32": (
        "standard all in, pair probes, bfloat16",
        "standard all in, pair probes",
    ),
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
}
MEMORY_RATIOS = {
    "peak memory, TopK, all in: pair probes / unmatched": ("topk all in, pair probes", "topk all in"),
    "peak memory, TopK: matched / unmatched": ("topk matched", "topk"),
    "peak memory, Standard: matched / unmatched": ("standard matched", "standard"),
}


class Timing(Record):
    """One arm at one size."""

    arm: str
    seconds: list[float] = Field(
        description="seconds of each round: of a step (a forward and a backward pass), or of an exact cosine a row"
    )
    median: float


class Ratio(Record):
    """Two arms, paired by round."""

    name: str
    numerator: str
    denominator: str
    median: float = Field(description="over rounds of time / time; of memory: of the peaks")
    low: float = Field(description="lower quartile")
    high: float = Field(description="upper quartile")

    @property
    def text(self) -> str:
        """Return the median, with quartiles where there are several rounds."""
        digits = 2 if self.median < 10 else 0
        if self.low == self.high:
            return f"{self.median:,.{digits}f}"
        return Quartiles(median=self.median, low=self.low, high=self.high).text(digits)


class Memory(Record):
    """Peak memory of a fresh process that makes a few steps of one arm."""

    arm: str
    mebibytes: float = Field(description="CPU: the process's resident memory; GPU: what torch had allocated there")


class SizeResult(Record):
    """Everything at one size."""

    size: str
    timings: list[Timing]
    ratios: list[Ratio]
    memory: list[Memory]


class SpeedResult(MeasurementResult):
    """All sizes, or as many as were run."""

    benchmark: Literal["speed"] = "speed"
    schema_version: Literal[1] = 1
    config: SpeedConfig
    processor: str
    sizes: list[SizeResult] = Field(default_factory=list)


class Speed(Measurement[SpeedConfig, SpeedResult]):
    """One part for each size."""

    parts = "sizes"
    config_class, result_class = SpeedConfig, SpeedResult

    @override
    def environment(self, config: SpeedConfig) -> Environment:
        if config.device == "cpu":
            return Environment.here()
        if not torch.cuda.is_available():
            raise UsageError("--device cuda: torch sees no CUDA device here; leave it out to measure on the CPU")
        return Environment.here(torch.cuda.get_device_name())

    @override
    def plan(self, config: SpeedConfig) -> list[Part]:
        return [Part(size.name, "sizes", partial(measure, size, config)) for size in config.sizes]

    @override
    def tables(self, result: SpeedResult) -> str:
        """Return ratios, times and peak memory, one column a size, with a caption."""
        c = result.config
        sizes = {size.name: size for size in c.sizes}
        shapes = "; ".join(
            f"{s.name}: d {s.d:,}, d_sae {s.d_sae:,}, k {s.k}, batch {s.batch:,}, SwiGLU layer {s.d_mlp:,}"
            for s in (sizes[of.size] for of in result.sizes)
        )
        where = (
            f"{c.threads} thread{'s' * (c.threads > 1)} of {result.processor}"
            if c.device == "cpu"
            else result.environment.device
        )
        unfinished = "" if result.complete else f" PARTIAL: {len(result.sizes)} of {len(c.sizes)} sizes."
        caption = (
            f"{shapes}. On {where}, torch {result.environment.packages['torch']}.{unfinished} A step is "
            "`training_forward_pass` and its backward pass. All in, it asks the layer for f(x) and J_f v or secants; "
            "else they are known beforehand, along isotropic probes. "
            f"Ratios are medians over {c.rounds} rounds of one process, each pairing the two arms, with quartiles; the "
            f"arms that take seconds ran in {min(c.slow_rounds, c.rounds)}. A pass per coordinate: {c.coordinates} "
            f"coordinates timed, extrapolated to d. Exact cosines: a row, by vmap(jacrev) of {c.jacobian_rows} rows, "
            "by Gram of the batch with its matrices made beforehand. Memory: peak of a fresh "
            "process after three steps, libraries included.\n"
        )
        times = _table(
            "milliseconds", [{t.arm: _milliseconds(t.median) for t in of.timings} for of in result.sizes], result
        )
        peaks = [{peak.arm: f"{peak.mebibytes:,.0f}" for peak in of.memory} for of in result.sizes]
        return "\n\n".join([ratio_table(result), times, _table("peak memory, MiB", peaks, result), caption])


def measure(size: Size, config: SpeedConfig, note: Note) -> SizeResult:
    """Take all timings, ratios and peaks of one size.

    Args:
        size: widths and batch.
        config: rounds and device.
        note: receives a line about what is being done.

    Returns:
        The numbers.
    """
    times = _times(size, config, note)
    peaks: dict[str, list[float]] = {}
    note("peak memory")
    for arm in MEMORY_ARMS:
        process = fresh_process(steps.__module__, arm, size.model_dump_json(), config.model_dump_json())
        peaks[arm] = [process.mebibytes]
    return SizeResult(
        size=size.name,
        timings=[Timing(arm=arm, seconds=taken, median=statistics.median(taken)) for arm, taken in times.items()],
        ratios=[*_ratios(RATIOS, times), *_ratios(MEMORY_RATIOS, peaks)],
        memory=[Memory(arm=arm, mebibytes=peak) for arm, (peak,) in peaks.items()],
    )


def _times(size: Size, config: SpeedConfig, note: Note) -> dict[str, list[float]]:
    """Time the arms; of exact cosines, a row.

    The arm that makes a pass per coordinate ran for some of them alone. It is extrapolated to all: its cost beyond the
    same step for none of them is proportional to their number.
    """
    arms = {name: partial(seconds, step, config.device) for name, step in steps(size, config).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about sparse tensors that SAELens makes
        times = in_turn(arms, config.rounds, slow=SLOW, slow_rounds=config.slow_rounds, seed=config.seed, note=note)
    for name, rows in (("exact cosine by Gram", size.batch), ("exact cosine by vmap(jacrev)", config.jacobian_rows)):
        if name in times:
            times[name] = [t / min(size.batch, rows) for t in times[name]]
    if (name := "topk, a pass per coordinate") in times:
        base = statistics.median(times["topk, a pass for no coordinate"])
        share = min(size.d, config.coordinates) / size.d
        times[name] = [base + max(0.0, t - base) / share for t in times[name]]
    return times


def _ratios(pairs: Mapping[str, tuple[str, str]], values: Mapping[str, list[float]]) -> list[Ratio]:
    """Pair the arms that were run."""
    return [
        Ratio(
            name=name,
            numerator=numerator,
            denominator=denominator,
            **Quartiles.of(paired(values[numerator], values[denominator])).model_dump(),
        )
        for name, (numerator, denominator) in pairs.items()
        if {numerator, denominator} <= set(values)
    ]


def ratio_table(result: SpeedResult) -> str:
    """Format the ratios: medians with quartiles.

    Args:
        result: complete or partial.

    Returns:
        A Markdown table.
    """
    return _table("ratio", [{ratio.name: ratio.text for ratio in of.ratios} for of in result.sizes], result)


def _table(title: str, cells: list[dict[str, str]], result: SpeedResult) -> str:
    """Lay out one column a size; what was not run there stays empty."""
    names = dict.fromkeys(name for column in cells for name in column)
    rows = [[name, *(column.get(name, "") for column in cells)] for name in names]
    return markdown_table([title, *(of.size for of in result.sizes)], rows)


def _milliseconds(value: float) -> str:
    value *= 1e3
    return f"{value:.2f}" if value < 1 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
