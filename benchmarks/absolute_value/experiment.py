"""All runs: in parallel, written as they end, resumed where they were interrupted."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky import get_reusable_executor

from faithfulness_plugin.benchmarks.absolute_value.conditions import conditions
from faithfulness_plugin.benchmarks.absolute_value.run import run
from faithfulness_plugin.benchmarks.absolute_value.schema import (
    AbsoluteValueResult,
    Condition,
    ConditionSummary,
    ExperimentConfig,
    Run,
    RunMetrics,
)
from faithfulness_plugin.benchmarks.result_file import RESULT_FILENAME, begin_or_go_on
from faithfulness_plugin.benchmarks.schema import Environment, write_text
from faithfulness_plugin.benchmarks.statistics import interval, share
from faithfulness_plugin.toy.circuits import abs_circuits

EMERGED = 0.1


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
    """Makes the runs that are missing; after each one the file in `out` holds all that are done."""
    done = {(r.condition, r.seed) for r in result.runs}
    missing = [
        (condition, seed)
        for seed in result.config.seeds
        for condition in result.conditions
        if (condition.name, seed) not in done
    ]
    for new in _parallel(result.config, missing, n_jobs):
        result = _with(result, new)
        write_text(out / RESULT_FILENAME, result.model_dump_json(indent=1))
        on_run(new)
    return result


def _parallel(config: ExperimentConfig, jobs: list[tuple[Condition, int]], n_jobs: int) -> Iterator[Run]:
    if n_jobs == 1 or len(jobs) < 2:
        yield from (run(config, condition, seed) for condition, seed in jobs)
        return
    try:
        with parallel_config(backend="loky", n_jobs=n_jobs, initializer=_leave_interrupts_to_the_parent):
            runs = Parallel(return_as="generator_unordered")(delayed(run)(config, *job) for job in jobs)
            yield from cast(Iterator[Run], runs)
    except BaseException:
        get_reusable_executor().shutdown(wait=False, kill_workers=True)
        raise


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _with(result: AbsoluteValueResult, new: Run) -> AbsoluteValueResult:
    order = {condition.name: i for i, condition in enumerate(result.conditions)}
    runs = sorted([*result.runs, new], key=lambda r: (order[r.condition], r.seed))
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
