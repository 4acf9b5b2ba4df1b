"""Does Jacobian matching make attribution graphs tell the truth? Every layer of a language model is replaced."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from faithfulness_plugin.benchmarks.whole_model.config import WholeModelConfig, WholeModelOptions
from faithfulness_plugin.benchmarks.whole_model.schema import SetRecord, WholeModelResult
from faithfulness_plugin.language_model.layer_rows import to_digits
from faithfulness_plugin.language_model.model import model_title
from faithfulness_plugin.results.experiment import Experiment, Running
from faithfulness_plugin.results.open_or_resume import RESULT_FILENAME, require_versions, require_wanted
from faithfulness_plugin.results.schema import Environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRANSCODERS = "transcoders"


class WholeModel(Experiment[WholeModelConfig, WholeModelResult]):
    """The parts are sets of transcoders, each trained, saved and measured."""

    parts = "sets"
    config_class = WholeModelConfig
    options_class = WholeModelOptions
    page_filename = "report.md"
    indent = None

    @override
    def fresh(self, config: WholeModelConfig) -> WholeModelResult:
        environment = Environment.here(config.device)
        return WholeModelResult(complete=False, environment=environment, model=model_title(config.model), config=config)

    @override
    def found(self, result: WholeModelResult, config: WholeModelConfig) -> WholeModelResult:
        """Resume a result with the sets of now, where it has no others."""
        if result.config == config:
            return result
        wanted = config.runs()
        require_wanted("sets", [of.run for of in result.sets], wanted)
        require_versions(Path(RESULT_FILENAME), result, self.fresh(config))
        return result.model_copy(update={"config": config, "complete": len(result.sets) == len(wanted)})

    @override
    def progress(self, result: WholeModelResult) -> tuple[int, int]:
        return len(result.sets), len(result.config.runs())

    @override
    def run(self, result: WholeModelResult, running: Running) -> Iterator[tuple[WholeModelResult, str]]:
        """Train and measure the sets that are missing. Of an interrupted set, trained transcoders are kept.

        Raises:
            TrainConfigError: model, blocks or text are not as configured.
            StoreError: stores of something else, in use, or that cannot be written.
        """
        from faithfulness_plugin.benchmarks.whole_model.bench import Bench
        from faithfulness_plugin.benchmarks.whole_model.numbers import set_record
        from faithfulness_plugin.benchmarks.whole_model.training import trained_set

        config, out, stores = result.config, running.out, running.options.stores
        bench = Bench(config, out / "stores" if stores is None else Path(stores), running)
        result = result.model_copy(update={"blocks": list(bench.layers), "missing": bench.missing})
        if not running.resumes:
            shutil.rmtree(out / TRANSCODERS, ignore_errors=True)  # of the result that is replaced
        yield result, ""
        done = {of.run for of in result.sets}
        missing = [run for run in config.runs() if run not in done]
        for run in missing:
            with bench.as_it_is(run) as model:
                transcoders, seconds = trained_set(run, model, out / TRANSCODERS, running.note)
                record = set_record(run, transcoders, seconds, model, running.note)
                name = "ce_clean_permuted" if run.arm.control == "permuted model" else "ce_clean"
                clean = to_digits(model.ce_clean.tolist())
            sets = [*result.sets, record]
            result = result.model_copy(update={"sets": sets, name: clean, "complete": run is missing[-1]})
            yield result, _line_of(record, result)

    @override
    def tables(self, result: WholeModelResult) -> str:
        from faithfulness_plugin.benchmarks.whole_model.tables import tables

        return tables(result)

    @override
    def page(self, result: WholeModelResult) -> str:
        from faithfulness_plugin.benchmarks.whole_model.report import page

        return page(result)

    @override
    def figures(self, result: WholeModelResult) -> "Mapping[str, Figure]":
        from faithfulness_plugin.benchmarks.whole_model.drawing import figures

        return figures(result)


def _line_of(of: SetRecord, result: WholeModelResult) -> str:
    """Say a set in a line, as it ends."""
    from faithfulness_plugin.benchmarks.whole_model.analysis import ALL_FEATURES, FVU, KL, PAIR_ERROR, truth

    alone = result.model_copy(update={"sets": [of]})
    numbers = (FVU, PAIR_ERROR, KL, *(truth("rank correlation", ALL_FEATURES, on) for on in ("logits", "features")))
    values = [number.mean(alone, of.arm) for number in numbers]
    fvu, error, kl, logits, features = (float("nan") if value is None else value.mean for value in values)
    return (
        f"{of.run.name}: FVU {fvu:.3f}, Jacobian error {error:.3f} (pairs), KL {kl:.3f} with all layers replaced; "
        f"features' effects: rank correlation {logits:.3f} on logits, {features:.3f} on later features"
    )
