"""`faithfulness reproduce`: a preset of the scan engine, with a result, tables and figures of its own."""

from collections.abc import Iterator, Mapping, Sequence

from matplotlib.figure import Figure
from typing_extensions import override

from faithfulness_plugin.benchmarks.note.absolute_value import report
from faithfulness_plugin.benchmarks.note.absolute_value.arms import arms_of
from faithfulness_plugin.benchmarks.note.absolute_value.schema import (
    AbsoluteValueConfig,
    AbsoluteValueResult,
    ArmSummary,
    Run,
)
from faithfulness_plugin.benchmarks.note.scan.experiment import failures
from faithfulness_plugin.benchmarks.note.scan.schema import Trained
from faithfulness_plugin.benchmarks.note.scan.shard import Failed, train_shards
from faithfulness_plugin.benchmarks.note.scan.spec import Point, ScanSpec
from faithfulness_plugin.benchmarks.note.toy_records import EMERGED, RunMetrics
from faithfulness_plugin.results.experiment import Experiment, Running
from faithfulness_plugin.results.intervals import interval, share
from faithfulness_plugin.results.schema import Environment
from faithfulness_plugin.toy.circuits import abs_circuits


class AbsoluteValue(Experiment[AbsoluteValueConfig, AbsoluteValueResult]):
    """Transcoders of y = |x| without and with a repeated point, with Jacobian matching and with its control."""

    config_class = AbsoluteValueConfig

    @override
    def fresh(self, config: AbsoluteValueConfig) -> AbsoluteValueResult:
        return AbsoluteValueResult(
            complete=False,
            config=config,
            conditions=list(arms_of(config.architecture)),
            layer_l0=config.density * config.d_in,
            circuits=[circuit.label for circuit in abs_circuits(config.d_in)] + ["datapoint p"],
            environment=Environment.here(),
            runs=[],
            summary=[],
        )

    @override
    def progress(self, result: AbsoluteValueResult) -> tuple[int, int]:
        return len(result.runs), len(result.conditions) * len(result.config.seeds)

    @override
    def run(self, result: AbsoluteValueResult, running: Running) -> Iterator[tuple[AbsoluteValueResult, str]]:
        yield result, ""  # for the checkpoints to belong to it
        failed: list[Failed] = []
        try:
            for shard in train_shards(_scan_of(result), _missing(result), running):
                failed += shard.failed
                runs = [_run(trained, shard.seconds) for trained in shard.trained]
                result = _with(result, runs)
                for run in runs:
                    yield result, _line(run)
        finally:
            running.failures += failures(failed, self.progress(result)[1], self.parts)

    @override
    def tables(self, result: AbsoluteValueResult) -> str:
        return report.tables(result)

    @override
    def figures(self, result: AbsoluteValueResult) -> Mapping[str, Figure]:
        return report.figures(result)


def _scan_of(result: AbsoluteValueResult) -> ScanSpec:
    """Describe the experiment as a scan of its arms."""
    config = result.config
    return ScanSpec(
        name="absolute value",
        base=config.settings,
        arms={arm.name: arm.settings for arm in result.conditions},
        extras=["jacobian_at_point", "projection"],
        n_validation=config.n_validation,
        n_jacobian=config.n_jacobian,
        evaluation_repeat=config.repeat_frac,
    )


def _missing(result: AbsoluteValueResult) -> list[Point]:
    """List what has not been trained yet, arm by arm."""
    done = {(run.condition, run.seed) for run in result.runs}
    points = [Point(arm=arm.name, values={}, seed=seed) for arm in result.conditions for seed in result.config.seeds]
    return [point for point in points if (point.arm, point.seed) not in done]


def _run(trained: Trained, seconds: float) -> Run:
    return Run.model_validate(
        {
            "condition": trained.arm,
            "seed": trained.seed,
            "seconds": round(seconds, 2),
            "metrics": trained.metrics,
            "jacobian_at_point": trained.extras.jacobian_at_point,
            "projection": trained.extras.projection,
        }
    )


def _line(run: Run) -> str:
    m, fvu = run.metrics.m, run.metrics.fvu
    return f"{run.condition}, seed {run.seed}: m {m:.3f}, FVU {fvu:.4f} ({run.seconds:.0f} s)"


def _with(result: AbsoluteValueResult, new: Sequence[Run]) -> AbsoluteValueResult:
    order = {arm.name: i for i, arm in enumerate(result.conditions)}
    runs = sorted([*result.runs, *new], key=lambda r: (order[r.condition], r.seed))
    complete = len(runs) == len(order) * len(result.config.seeds)
    return result.model_copy(update={"runs": runs, "summary": _summarise(runs), "complete": complete})


def _summarise(runs: Sequence[Run]) -> list[ArmSummary]:
    """Compute every metric's interval over seeds, and the share of seeds that memorise, for each arm."""
    metrics: dict[str, list[RunMetrics]] = {}
    for run in runs:
        metrics.setdefault(run.condition, []).append(run.metrics)
    return [
        ArmSummary(
            condition=name,
            metrics={field: interval([getattr(m, field) for m in of]) for field in RunMetrics.model_fields},
            emergence=share(sum(m.m_fraction > EMERGED for m in of), len(of)),
        )
        for name, of in metrics.items()
    ]
