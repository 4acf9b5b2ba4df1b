"""A scan from its spec to its result: parts in parallel, written as they end, resumed where they were interrupted."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult, Trained
from faithfulness_plugin.benchmarks.note.scan.shard import Shard, shards, train_shard
from faithfulness_plugin.benchmarks.note.scan.spec import Point, ScanSpec
from faithfulness_plugin.results.result_file import RESULT_FILENAME, begin_or_go_on
from faithfulness_plugin.results.schema import Environment, write_text
from faithfulness_plugin.results.workers import Backend, each_done

SHARDS = ".shards"  # checkpoints of parts that are being trained, inside the result's folder


def open_result(out: Path, spec: ScanSpec, *, overwrite: bool = False) -> ScanResult:
    """The result that stands in `out`, to be completed, or an empty one that has just been written there.

    Raises ResultError as `begin_or_go_on` does."""
    fresh = ScanResult(complete=False, environment=Environment.here(), spec=spec, trained=[])
    goes_on = (out / RESULT_FILENAME).exists() and not overwrite
    result = begin_or_go_on(out, fresh, overwrite=overwrite)
    if not goes_on:
        shutil.rmtree(out / SHARDS, ignore_errors=True)  # of a scan that was here before
    return result


def missing(result: ScanResult) -> list[Point]:
    """What has not been trained yet."""
    done = {trained.point.model_dump_json() for trained in result.trained}
    return [point for point in result.spec.points if point.model_dump_json() not in done]


def complete(
    result: ScanResult,
    out: Path,
    *,
    n_jobs: int,
    shard_size: int = 32,
    backend: Backend = "local",
    on_shard: Callable[[Shard], None] = lambda _: None,
    on_death: Callable[[int], None] = lambda _: None,
) -> ScanResult:
    """Trains what is missing; after each part the file in `out` holds all that is done. A transcoder that cannot be
    trained or measured is told to `on_shard` and left out; the others go on.

    Args:
        n_jobs: processes (or Ray workers) at a time.
        shard_size: members that a process trains together: memory grows with it, and a dead worker loses that many.
    """
    spec = result.spec
    parts = shards(spec, missing(result), shard_size, n_jobs)
    folder = out / SHARDS
    jobs = [(spec, part, folder.resolve()) for part in parts]
    for shard in each_done(train_shard, jobs, n_jobs=n_jobs, backend=backend, on_death=on_death):
        result = merged(result, shard.trained)
        write_text(out / RESULT_FILENAME, result.model_dump_json())
        on_shard(shard)
    shutil.rmtree(folder, ignore_errors=True)
    return result


def merged(result: ScanResult, trained: Sequence[Trained]) -> ScanResult:
    """With these as well; whatever the order in which parts come, the result is in the scan's own."""
    order = {point.model_dump_json(): n for n, point in enumerate(result.spec.points)}
    everything = sorted([*result.trained, *trained], key=lambda t: order[t.point.model_dump_json()])
    return result.model_copy(update={"trained": everything, "complete": len(everything) == len(order)})
