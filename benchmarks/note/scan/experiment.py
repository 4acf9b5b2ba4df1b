"""A scan from its spec to its result."""

from collections.abc import Iterator, Sequence

from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.benchmarks.note.scan.report import table
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult, Trained
from faithfulness_plugin.benchmarks.note.scan.shard import SHARD_SIZE, Failed, cost, train_shards
from faithfulness_plugin.benchmarks.note.scan.spec import Point, ScanSpec
from faithfulness_plugin.results.experiment import Experiment, Running
from faithfulness_plugin.results.schema import Environment, Record


class ScanOptions(Record):
    """How a scan is divided."""

    shard_size: int = Field(default=SHARD_SIZE, ge=1, description="transcoders that one process trains at most")


class Scan(Experiment[ScanSpec, ScanResult]):
    """A grid of toy transcoders. One that cannot be trained or measured is named and left out; the others go on."""

    parts = "transcoders"
    config_class = ScanSpec
    options_class = ScanOptions
    indent = None

    @override
    def fresh(self, config: ScanSpec) -> ScanResult:
        return ScanResult(complete=False, environment=Environment.here(), spec=config, trained=[])

    @override
    def progress(self, result: ScanResult) -> tuple[int, int]:
        return len(result.trained), result.spec.n_points

    @override
    def work_left(self, result: ScanResult) -> float:
        return float(cost(result.spec, missing(result)))

    @override
    def run(self, result: ScanResult, running: Running) -> Iterator[tuple[ScanResult, str]]:
        yield result, ""  # for the checkpoints to belong to it
        failed: list[Failed] = []
        try:
            for shard in train_shards(result.spec, missing(result), running, running.options.shard_size):
                failed += shard.failed
                if shard.trained:
                    result = merged(result, shard.trained)
                    yield result, _line(shard.trained)
        finally:
            running.failures += failures(failed, result.spec.n_points, self.parts)

    @override
    def tables(self, result: ScanResult) -> str:
        return table(result)


def missing(result: ScanResult) -> list[Point]:
    """List what has not been trained yet.

    Args:
        result: the scan's.

    Returns:
        Points in the scan's order, those that failed included.
    """
    done = {trained.point.model_dump_json() for trained in result.trained}
    return [point for point in result.spec.points if point.model_dump_json() not in done]


def merged(result: ScanResult, trained: Sequence[Trained]) -> ScanResult:
    """Add transcoders to a result; whatever the order in which parts come, the result is in the scan's own.

    Args:
        result: the scan's so far.
        trained: new transcoders of its points.

    Returns:
        A result with both, complete where nothing is missing.
    """
    order = {point.model_dump_json(): n for n, point in enumerate(result.spec.points)}
    everything = sorted([*result.trained, *trained], key=lambda t: order[t.point.model_dump_json()])
    return result.model_copy(update={"trained": everything, "complete": len(everything) == len(order)})


def failures(failed: Sequence[Failed], total: int, parts: str) -> list[str]:
    """Describe the transcoders that could not be trained or measured.

    Args:
        failed: those, in the order in which they failed.
        total: how many were to be trained.
        parts: what they are called, in the plural.

    Returns:
        One line, or none where nothing failed.
    """
    if not failed:
        return []
    return [f"{len(failed)} of {total} {parts} failed, the first ({failed[0].point}): {failed[0].why}"]


def _line(trained: Sequence[Trained]) -> str:
    m = sum(t.metrics.m_fraction for t in trained) / len(trained)
    arms = ", ".join(dict.fromkeys(t.arm for t in trained))
    return f"{arms}: {len(trained)} trained, mean m / max {m:.2f}"
