"""Does matching cost readability? Measures the transcoders of a real-layers result, feature by feature."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from faithfulness_plugin.benchmarks.readability.config import ReadabilityConfig
from faithfulness_plugin.benchmarks.readability.pairs import matched_pair, pair_of, wanted_pairs
from faithfulness_plugin.benchmarks.readability.schema import ReadabilityResult
from faithfulness_plugin.benchmarks.real_layers.config import Run
from faithfulness_plugin.benchmarks.real_layers.experiment import TRANSCODERS
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.results.experiment import Experiment, Running
from faithfulness_plugin.results.open_or_resume import RESULT_FILENAME
from faithfulness_plugin.results.schema import Environment, ResultError, read_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from faithfulness_plugin.benchmarks.readability.layer_rows import LayerRows


class Readability(Experiment[ReadabilityConfig, ReadabilityResult]):
    """The parts are the transcoders, layer after layer, and then pairs of them."""

    parts = "parts"
    config_class = ReadabilityConfig
    indent = None

    @override
    def fresh(self, config: ReadabilityConfig) -> ReadabilityResult:
        """Build the empty result. Raises ResultError for a result without a transcoder to measure."""
        trained = read_result(Path(config.transcoders) / RESULT_FILENAME, RealLayersResult)
        if not runs_of(trained):
            raise ResultError(
                f"{config.transcoders} holds no transcoder with features of a real layer: wait for its first run, or "
                "name another folder"
            )
        return ReadabilityResult(complete=False, environment=Environment.here(), model=trained.model, config=config)

    @override
    def found(self, result: ReadabilityResult, config: ReadabilityConfig) -> ReadabilityResult:
        """Resume a result with the transcoders that there are now: of a seed's pairs, the next seed may be another."""
        runs = runs_of(read_result(Path(config.transcoders) / RESULT_FILENAME, RealLayersResult))
        pairs = wanted_pairs(runs)
        matched = [of for of in result.matched if pair_of(of) in pairs]
        return self._now(result.model_copy(update={"matched": matched}), len(runs) + len(pairs))

    @override
    def progress(self, result: ReadabilityResult) -> tuple[int, int]:
        runs = runs_of(read_result(Path(result.config.transcoders) / RESULT_FILENAME, RealLayersResult))
        return len(result.measured) + len(result.matched), len(runs) + len(wanted_pairs(runs))

    @override
    def run(self, result: ReadabilityResult, running: Running) -> Iterator[tuple[ReadabilityResult, str]]:
        """Measure the transcoders that are missing, then match the pairs that are.

        Raises:
            UsageError: as `Source`.
        """
        from faithfulness_plugin.transcoders.load import load_transcoder

        config = result.config
        trained = read_result(Path(config.transcoders) / RESULT_FILENAME, RealLayersResult)
        runs = runs_of(trained)
        pairs = wanted_pairs(runs)
        total = len(runs) + len(pairs)

        @lru_cache(maxsize=8)
        def loaded(run: Run) -> Any:
            return load_transcoder(Path(config.transcoders) / TRANSCODERS / run.folder).eval()

        for grown, line in self._measured(result, trained, running):
            result = self._now(grown, total)
            yield result, line
        numbers = {of.run: of for of in result.measured}
        have = set(map(pair_of, result.matched))
        for pair in pairs:
            if pair in have:
                continue
            both = matched_pair(
                pair, (loaded(pair.run), loaded(pair.reference)), (numbers[pair.run], numbers[pair.reference])
            )
            result = self._now(result.model_copy(update={"matched": [*result.matched, both]}), total)
            yield result, pair.name

    def _measured(
        self, result: ReadabilityResult, trained: RealLayersResult, running: Running
    ) -> Iterator[tuple[ReadabilityResult, str]]:
        """Yield the result after each transcoder."""
        from faithfulness_plugin.benchmarks.readability.layer_rows import Source
        from faithfulness_plugin.benchmarks.readability.measure import measured
        from faithfulness_plugin.transcoders.load import load_transcoder

        config, done = result.config, {of.run for of in result.measured}
        missing = [run for run in runs_of(trained) if run not in done]
        if not missing:
            return
        source = Source(trained, config, running.note)
        rows: LayerRows | None = None
        for run in missing:
            if rows is None or rows.block != run.block:
                rows = source.layer_rows(run.block)
                if all(of.block != run.block for of in result.layers):
                    result = result.model_copy(update={"layers": [*result.layers, rows.record]})
            running.note(f"measuring: {run.name}")
            transcoder = load_transcoder(Path(config.transcoders) / TRANSCODERS / run.folder).eval()
            of = measured(transcoder, run, rows, config)
            result = result.model_copy(update={"measured": [*result.measured, of]})
            live = sum(n > 0 for n in of.fires)
            yield result, f"{run.name}: {live:,} of {len(of.fires):,} features fire"

    def _now(self, result: ReadabilityResult, total: int) -> ReadabilityResult:
        return result.model_copy(update={"complete": len(result.measured) + len(result.matched) == total})

    @override
    def tables(self, result: ReadabilityResult) -> str:
        from faithfulness_plugin.benchmarks.readability.tables import tables

        return tables(result)

    @override
    def figures(self, result: ReadabilityResult) -> "Mapping[str, Figure]":
        from faithfulness_plugin.benchmarks.readability.drawing import figures

        return figures(result)


def runs_of(trained: RealLayersResult) -> list[Run]:
    """List the transcoders that are measured, layer after layer.

    Args:
        trained: the result beside them.

    Returns:
        All that have features and replace a real layer, and saw no repeated passage.
    """
    runs = [
        of.run
        for of in trained.trained
        if of.arm.control != "constant map" and of.arm.layer == "real" and not of.repeated
    ]
    return sorted(runs, key=lambda run: trained.config.blocks.index(run.block))
