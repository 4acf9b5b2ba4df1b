"""Does Jacobian matching make transcoders of a language model's MLPs more faithful, and at what cost?"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from faithfulness_plugin.benchmarks.real_layers.analysis import value
from faithfulness_plugin.benchmarks.real_layers.bench import Bench, MlpBench
from faithfulness_plugin.benchmarks.real_layers.config import RealLayersConfig, RealLayersOptions, Run
from faithfulness_plugin.benchmarks.real_layers.drawings import figures
from faithfulness_plugin.benchmarks.real_layers.report import page
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult, RunRecord
from faithfulness_plugin.benchmarks.real_layers.tables import tables
from faithfulness_plugin.benchmarks.real_layers.training import Cost, train
from faithfulness_plugin.language_model.model import model_title
from faithfulness_plugin.measure.relative_errors import fvu, jacobian_error, response_error
from faithfulness_plugin.results.experiment import Experiment, Running
from faithfulness_plugin.results.open_or_resume import RESULT_FILENAME, require_versions, require_wanted
from faithfulness_plugin.results.schema import Environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHECKPOINTS, TRANSCODERS = "checkpoints", "transcoders"


class RealLayers(Experiment[RealLayersConfig, RealLayersResult]):
    """Fills stores of rows and derivatives once, then trains and measures transcoder after transcoder from them."""

    parts = "transcoders"
    config_class = RealLayersConfig
    options_class = RealLayersOptions
    page_filename = "report.md"

    @override
    def fresh(self, config: RealLayersConfig) -> RealLayersResult:
        environment = Environment.here(config.device)
        return RealLayersResult(complete=False, environment=environment, model=model_title(config.model), config=config)

    @override
    def found(self, result: RealLayersResult, config: RealLayersConfig) -> RealLayersResult:
        """Resume a result with the runs of now, where it has no others."""
        if result.config == config:
            return result
        wanted = config.runs()
        require_wanted("runs", [of.run for of in result.trained], wanted)
        require_versions(Path(RESULT_FILENAME), result, self.fresh(config))
        done = len(result.trained) == len(wanted)
        return result.model_copy(update={"config": config, "complete": done})

    @override
    def progress(self, result: RealLayersResult) -> tuple[int, int]:
        return len(result.trained), len(result.config.runs())

    @override
    def run(self, result: RealLayersResult, running: Running) -> Iterator[tuple[RealLayersResult, str]]:
        """Make the runs that are missing; each transcoder is in `out`/transcoders. An interrupted run resumes from its
        last checkpoint.

        Raises:
            TrainConfigError: model, blocks or text are not as configured.
            StoreError: stores of something else, in use, or that cannot be written.
        """
        out, stores = running.out, running.options.stores
        bench = Bench(result.config, running.out / "stores" if stores is None else Path(stores), running)
        known = {record.hook_in for record in result.rows}
        more = [record for record in bench.rows if record.hook_in not in known]
        result = result.model_copy(update={"rows": [*result.rows, *more]})
        if not running.resumes:
            for folder in (out / CHECKPOINTS, out / TRANSCODERS):
                shutil.rmtree(folder, ignore_errors=True)  # of the result that is replaced
        yield result, ""
        done = {trained.run for trained in result.trained}
        missing = [run for run in result.config.runs() if run not in done]
        for run in missing:
            with bench.as_it_is(run) as layer:
                result = _with_run(result, run, layer, bench, running)
            result = result.model_copy(update={"complete": run is missing[-1]})
            yield result, _line_of(result.trained[-1], result)
            shutil.rmtree(out / CHECKPOINTS / run.folder, ignore_errors=True)

    @override
    def tables(self, result: RealLayersResult) -> str:
        return tables(result)

    @override
    def page(self, result: RealLayersResult) -> str:
        return page(result)

    @override
    def figures(self, result: RealLayersResult) -> "Mapping[str, Figure]":
        return figures(result)


def _line_of(trained: RunRecord, result: RealLayersResult) -> str:
    """Say a run in a line, as it ends."""
    at = f", passage's own {trained.passage.share:.2f}" if trained.passage is not None else ""
    pair, half = value(result, trained, jacobian_error("data")), value(result, trained, response_error("difference"))
    return (
        f"{trained.run.name}: FVU {value(result, trained, fvu):.4f}, Jacobian error {pair:.3f} (pairs), half-way "
        f"{half:.3f}{at}"
    )


def _with_run(result: RealLayersResult, run: Run, layer: MlpBench, bench: Bench, running: Running) -> RealLayersResult:
    """Train and measure the transcoder of a run, save it, and add its record."""
    transcoder, cost = bench.transcoder(run, layer), Cost(None, None)
    if result.config.steps(run.arm):
        running.note(f"training: {run.name}")
        store = bench.stores[run.block, run.repeated]
        cost = train(transcoder, run, layer.layer, store, result.config, running.out / CHECKPOINTS / run.folder)
    running.note(f"measuring: {run.name}")
    held_out, transcoder = layer.held_out, transcoder.eval()
    place = "permuted" if run.arm.layer == "permuted" else "layers"
    measured: list[Any] = getattr(result, place)
    found = held_out.compare(transcoder)
    if all(of.block != run.block for of in measured):
        result = result.model_copy(update={place: [*measured, held_out.layer_record(found)]})
    numbers = dict(held_out.measure(transcoder, layer.mean.matrix, found=found))
    record = RunRecord(**run._asdict(), **numbers, floors=layer.floors(transcoder), **cost._asdict())
    transcoder.save_inference_model(running.out / TRANSCODERS / run.folder)
    return result.model_copy(update={"trained": [*result.trained, record]})
