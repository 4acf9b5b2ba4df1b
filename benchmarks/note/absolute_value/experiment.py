"""All runs: in parallel, written as they end, resumed where they were interrupted."""

from collections.abc import Callable
from pathlib import Path

from faithfulness_plugin.benchmarks.note.absolute_value.conditions import conditions
from faithfulness_plugin.benchmarks.note.absolute_value.run import runs
from faithfulness_plugin.benchmarks.note.absolute_value.schema import (
    AbsoluteValueResult,
    Condition,
    ConditionSummary,
    ExperimentConfig,
    Run,
)
from faithfulness_plugin.benchmarks.note.toy_problem import EMERGED, RunMetrics
from faithfulness_plugin.results.intervals import interval, share
from faithfulness_plugin.results.result_file import RESULT_FILENAME, begin_or_go_on
from faithfulness_plugin.results.schema import Environment, write_text
from faithfulness_plugin.results.workers import each_done
from faithfulness_plugin.toy.circuits import abs_circuits

TOGETHER = 10  # runs of one condition that are trained together, and written together


def open_result(out: Path, config: ExperimentConfig, *, overwrite: bool = False) -> AbsoluteValueResult:
    """The result that stands in `out`, to be completed, or an empty one that has just been written there.

    Raises ResultError as `begin_or_go_on` does."""
    fresh = AbsoluteValueResult(
        complete=False,
        config=config,
        conditions=list(conditions(config.architecture)),
        layer_l0=config.density * config.d_in,
        circuits=[circuit.label for circuit in abs_circuits(config.d_in)] + ["datapoint p"],
        environment=Environment.here(),
        runs=[],
        summary=[],
    )
    return begin_or_go_on(out, fresh, overwrite=overwrite)


def complete(
    result: AbsoluteValueResult, out: Path, *, n_jobs: int, on_run: Callable[[Run], None] = lambda _: None
) -> AbsoluteValueResult:
    """Makes the runs that are missing; after each part the file in `out` holds all that are done."""
    done = {(r.condition, r.seed) for r in result.runs}
    missing = [
        (condition, seed)
        for condition in result.conditions
        for seed in result.config.seeds
        if (condition.name, seed) not in done
    ]
    size = TOGETHER if result.config.architecture == "standard" else 1
    parts = [part for of in result.conditions for part in _parts([job for job in missing if job[0] == of], size)]
    for new in each_done(runs, [(result.config, part) for part in parts], n_jobs=n_jobs):
        result = _with(result, new)
        write_text(out / RESULT_FILENAME, result.model_dump_json(indent=1))
        for run in new:
            on_run(run)
    return result


def _parts(jobs: list[tuple[Condition, int]], size: int) -> list[list[tuple[Condition, int]]]:
    return [jobs[i : i + size] for i in range(0, len(jobs), size)]


def _with(result: AbsoluteValueResult, new: list[Run]) -> AbsoluteValueResult:
    order = {condition.name: i for i, condition in enumerate(result.conditions)}
    runs = sorted([*result.runs, *new], key=lambda r: (order[r.condition], r.seed))
    return result.model_copy(
        update={
            "runs": runs,
            "summary": summarise(runs),
            "complete": len(runs) == len(result.conditions) * len(result.config.seeds),
        }
    )


def summarise(runs: list[Run]) -> list[ConditionSummary]:
    """Per condition: every metric's interval over seeds, and the share of seeds that memorise."""
    summaries: list[ConditionSummary] = []
    for name in dict.fromkeys(r.condition for r in runs):
        of = [r.metrics for r in runs if r.condition == name]
        summaries.append(
            ConditionSummary(
                condition=name,
                metrics={field: interval([getattr(m, field) for m in of]) for field in RunMetrics.model_fields},
                emergence=share(sum(m.m_fraction > EMERGED for m in of), len(of)),
            )
        )
    return summaries
