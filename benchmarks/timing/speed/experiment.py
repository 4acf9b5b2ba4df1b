"""All sizes, written as they end, resumed where they were interrupted."""

from collections.abc import Callable
from pathlib import Path

import torch

from faithfulness_plugin.benchmarks.timing.speed.run import measure
from faithfulness_plugin.benchmarks.timing.speed.schema import SizeResult, SpeedConfig, SpeedResult
from faithfulness_plugin.results.result_file import RESULT_FILENAME, begin_or_go_on
from faithfulness_plugin.results.schema import Environment, processor, write_text
from faithfulness_plugin.results.threads import torch_threads


def open_result(out: Path, config: SpeedConfig, *, overwrite: bool = False) -> SpeedResult:
    """The result that stands in `out`, to be completed, or an empty one. Raises ResultError as `begin_or_go_on`."""
    device = torch.cuda.get_device_name() if config.device == "cuda" else "cpu"
    fresh = SpeedResult(
        complete=False, config=config, environment=Environment.here(device), processor=processor(), sizes=[]
    )
    return begin_or_go_on(out, fresh, overwrite=overwrite)


def complete(
    result: SpeedResult,
    out: Path,
    on_step: Callable[[str], None] = lambda _: None,
    on_size: Callable[[SizeResult], None] = lambda _: None,
) -> SpeedResult:
    """Measures the sizes that are missing; after each one the file in `out` holds all that are done."""
    with torch_threads(result.config.threads):
        for size in result.config.sizes[len(result.sizes) :]:
            sizes = [*result.sizes, measure(size, result.config, on_step)]
            done = len(sizes) == len(result.config.sizes)
            result = result.model_copy(update={"sizes": sizes, "complete": done})
            write_text(out / RESULT_FILENAME, result.model_dump_json(indent=1))
            on_size(sizes[-1])
    return result
