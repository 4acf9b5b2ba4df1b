"""The experiment on a band of layers: transcoders are its parts, each trained and measured."""

import shutil
import time
from collections.abc import Iterator

from typing_extensions import override

from faithfulness_plugin.benchmarks.band.config import BandConfig, BandRun
from faithfulness_plugin.benchmarks.band.schema import BandRecord, BandResult
from faithfulness_plugin.benchmarks.band.truth_table import truth_table
from faithfulness_plugin.language_model.model import model_title
from faithfulness_plugin.results.experiment import Experiment, Running
from faithfulness_plugin.results.intervals import RANGE, interval
from faithfulness_plugin.results.schema import Environment
from faithfulness_plugin.results.tables import Table

CHECKPOINTS = "checkpoints"


class Band(Experiment[BandConfig, BandResult]):
    """One transcoder of the band for each arm and seed."""

    parts = "transcoders"
    config_class = BandConfig
    indent = None

    @override
    def fresh(self, config: BandConfig) -> BandResult:
        return BandResult(
            complete=False, environment=Environment.here(config.device), model=model_title(config.model), config=config
        )

    @override
    def progress(self, result: BandResult) -> tuple[int, int]:
        return len(result.records), len(result.config.runs())

    @override
    def run(self, result: BandResult, running: Running) -> Iterator[tuple[BandResult, str]]:
        """Train and measure what is missing; an interrupted training resumes from its last checkpoint.

        Raises:
            TrainConfigError: model, blocks or text are not as configured.
        """
        from faithfulness_plugin.benchmarks.band.bench import BandBench

        folder = running.out / CHECKPOINTS
        if not running.resumes:
            shutil.rmtree(folder, ignore_errors=True)  # of the result that is replaced
        bench = BandBench(result.config, running.note)
        result = result.model_copy(update={"blocks": list(bench.layers), "ce_clean": bench.ce_clean})
        yield result, ""
        done = {BandRun(of.arm, of.seed) for of in result.records}
        missing = [run for run in result.config.runs() if run not in done]
        for run in missing:
            begun, place = time.perf_counter(), folder / f"{run.arm}_seed{run.seed}"
            running.note(f"training: {run.arm}, seed {run.seed}")
            transcoder = bench.trained(run, place, resume=place.exists())
            records = [*result.records, bench.record(run, transcoder, begun)]
            result = result.model_copy(update={"records": records, "complete": run is missing[-1]})
            yield result, _line(result, records[-1])

    @override
    def tables(self, result: BandResult) -> str:
        numbers = {"FVU": fvu, "hops kept": hops, "own derivative's error": own_error, "crossing": crossing, "L0": l0}
        rows = []
        for arm in result.config.arms:
            of = [record for record in result.records if record.arm == arm]
            if of:
                intervals = [interval([number(record) for record in of]) for number in numbers.values()]
                loss, kl = ([getattr(self, name)(result, r) for r in of] for name in ("added_loss", "divergence"))
                rows.append([arm, str(len(of)), *intervals, interval(loss), interval(kl), f"{of[0].parameters:,}"])
        partial = "" if result.complete else " PARTIAL result."
        caption = (
            f"{result.model}, the MLPs of blocks {', '.join(map(str, result.blocks))} together, on held-out prompts: "
            f"means and 95 % intervals over seeds, {RANGE}. FVU: of all layers' outputs. Hops kept: mean over layers "
            "but the first. Own derivative's error: relative, along differences of rows. Crossing: what earlier layers'"
            " inputs move by partial derivatives, which the model does not have, as a multiple of what the layers' own "
            f"do. Added loss and KL: nats a token with the band replaced.{partial}"
        )
        header = ["arm", "seeds", *numbers, "added loss", "KL", "parameters"]
        both = [Table(header, rows, caption), truth_table(result)]
        return "\n".join(table.render("markdown") for table in both if table.rows)

    @staticmethod
    def added_loss(result: BandResult, of: BandRecord) -> float:
        """Compute by how many nats a token the model's loss grows with the band replaced.

        Args:
            result: with the model's own loss.
            of: the transcoder.

        Returns:
            The mean over predicted tokens.
        """
        return (sum(of.ce) - sum(result.ce_clean)) / _n_tokens(result)

    @staticmethod
    def divergence(result: BandResult, of: BandRecord) -> float:
        """Compute the divergence of the model's next token, in nats a token.

        Args:
            result: says how many tokens there are.
            of: the transcoder.

        Returns:
            The mean over predicted tokens.
        """
        return sum(of.kl) / _n_tokens(result)


def fvu(of: BandRecord) -> float:
    """Compute the fraction of variance unexplained of all layers together.

    Args:
        of: the transcoder.

    Returns:
        The fraction.
    """
    return sum(map(sum, of.error)) / sum(map(sum, of.variance))


def hops(of: BandRecord) -> float:
    """Average hops kept over layers but the first.

    Args:
        of: the transcoder.

    Returns:
        The mean.
    """
    return sum(of.hops_kept) / len(of.hops_kept)


def own_error(of: BandRecord) -> float:
    """Average the relative error of layers' own derivatives.

    Args:
        of: the transcoder.

    Returns:
        The mean over layers.
    """
    return sum(error / energy for error, energy in of.own) / len(of.own)


def crossing(of: BandRecord) -> float:
    """Compare partial derivatives across layers with what layers' own do.

    Args:
        of: the transcoder.

    Returns:
        The mean over layers but the first of sum over l < m of ||P_lm v||^2 / ||J_m v||^2.
    """
    return sum(c / energy for c, (_, energy) in zip(of.crossing, of.own[1:], strict=True)) / len(of.crossing)


def l0(of: BandRecord) -> float:
    """Return active features a row.

    Args:
        of: the transcoder.

    Returns:
        Of all layers together.
    """
    return of.l0


def _n_tokens(result: BandResult) -> int:
    return len(result.ce_clean) * (result.config.context_size - 1)


def _line(result: BandResult, of: BandRecord) -> str:
    return (
        f"{of.arm}, seed {of.seed}: FVU {fvu(of):.3f}, hops kept {hops(of):.2f}, "
        f"added loss {Band.added_loss(result, of):.3f}"
    )
