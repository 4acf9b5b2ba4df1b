"""All runs of the audit: in parallel, written as they end, resumed where they were interrupted."""

import time
from collections.abc import Callable
from pathlib import Path

from faithfulness_plugin.benchmarks.note.audit.run import compare_inert, run
from faithfulness_plugin.benchmarks.note.audit.schema import COLUMNS, AuditConfig, AuditResult, AuditRun, InertCheck
from faithfulness_plugin.results.result_file import RESULT_FILENAME, begin_or_go_on
from faithfulness_plugin.results.schema import Environment, write_text
from faithfulness_plugin.results.workers import Backend, each_done


def open_result(out: Path, config: AuditConfig, *, overwrite: bool = False) -> AuditResult:
    """The result that stands in `out`, to be completed, or an empty one. Raises ResultError as `begin_or_go_on`."""
    fresh = AuditResult(complete=False, environment=Environment.here(), config=config, runs=[], inert=[])
    return begin_or_go_on(out, fresh, overwrite=overwrite)


def n_parts(config: AuditConfig) -> int:
    """Runs, and comparisons of the inert term."""
    return (len(COLUMNS) + 1) * len(config.seeds)


def complete(
    result: AuditResult,
    out: Path,
    *,
    n_jobs: int,
    backend: Backend = "local",
    on_part: Callable[[AuditRun | InertCheck], None] = lambda _: None,
) -> AuditResult:
    """Makes the runs and comparisons that are missing; after each one the file in `out` holds all that are done."""
    config = result.config
    done = {(r.column, r.seed) for r in result.runs} | {("", check.seed) for check in result.inert}
    jobs = [(config, column, seed) for seed in config.seeds for column in ("", *COLUMNS) if (column, seed) not in done]
    for part in each_done(_part, jobs, n_jobs=n_jobs, backend=backend):
        if isinstance(part, AuditRun):
            order = list(COLUMNS)
            runs = sorted([*result.runs, part], key=lambda r: (order.index(r.column), r.seed))
            result = result.model_copy(update={"runs": runs})
        else:
            inert = sorted([*result.inert, part], key=lambda check: check.seed)
            result = result.model_copy(update={"inert": inert})
        finished = len(result.runs) + len(result.inert) == n_parts(config)
        result = result.model_copy(update={"complete": finished})
        write_text(out / RESULT_FILENAME, result.model_dump_json(indent=1))
        on_part(part)
    return result


def _part(config: AuditConfig, column: str, seed: int) -> AuditRun | InertCheck:
    return run(config, column, seed) if column else compare_inert(config, seed)


def seconds(config: AuditConfig, n_workers: int) -> float:
    """Wall-clock seconds that all of it takes, from a few steps of the dearest column."""
    short = config.model_copy(update={"n_steps": 100})
    run(short, "jacobian", config.seeds[0])
    start = time.perf_counter()
    run(short, "jacobian", config.seeds[0])
    each = (time.perf_counter() - start) * config.n_steps / short.n_steps
    return each * len(COLUMNS) * len(config.seeds) / n_workers
