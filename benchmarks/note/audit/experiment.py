"""All runs of the audit, in parallel."""

import time
from collections.abc import Iterator

from typing_extensions import override

from faithfulness_plugin.benchmarks.note.audit import report
from faithfulness_plugin.benchmarks.note.audit.schema import ARMS, AuditConfig, AuditResult, AuditRun, InertCheck
from faithfulness_plugin.benchmarks.note.audit.training import compare_inert, run
from faithfulness_plugin.results.experiment import Experiment, Running
from faithfulness_plugin.results.schema import Environment
from faithfulness_plugin.results.workers import run_jobs

INERT = ""  # the comparison of the inert term, among the arms


class Audit(Experiment[AuditConfig, AuditResult]):
    """The public reproduction's configuration, arm by arm, and what its Jacobian term does."""

    config_class = AuditConfig

    @override
    def fresh(self, config: AuditConfig) -> AuditResult:
        return AuditResult(complete=False, environment=Environment.here(), config=config, runs=[], inert=[])

    @override
    def progress(self, result: AuditResult) -> tuple[int, int]:
        return len(result.runs) + len(result.inert), (len(ARMS) + 1) * len(result.config.seeds)

    @override
    def run(self, result: AuditResult, running: Running) -> Iterator[tuple[AuditResult, str]]:
        config = result.config
        done = {(r.column, r.seed) for r in result.runs} | {(INERT, check.seed) for check in result.inert}
        jobs = [(config, arm, seed) for seed in config.seeds for arm in (INERT, *ARMS) if (arm, seed) not in done]
        for part in run_jobs(_part, jobs, n_jobs=running.n_jobs, backend=running.backend):
            result = self._with(result, part)
            yield result, _line(part)

    def _with(self, result: AuditResult, part: AuditRun | InertCheck) -> AuditResult:
        if isinstance(part, AuditRun):
            order = list(ARMS)
            runs = sorted([*result.runs, part], key=lambda r: (order.index(r.column), r.seed))
            result = result.model_copy(update={"runs": runs})
        else:
            inert = sorted([*result.inert, part], key=lambda check: check.seed)
            result = result.model_copy(update={"inert": inert})
        done, total = self.progress(result)
        return result.model_copy(update={"complete": done == total})

    @override
    def tables(self, result: AuditResult) -> str:
        return f"{report.table(result)}\n\n{report.caption(result)}\n"


def _part(config: AuditConfig, arm: str, seed: int) -> AuditRun | InertCheck:
    return compare_inert(config, seed) if arm == INERT else run(config, arm, seed)


def _line(part: AuditRun | InertCheck) -> str:
    if isinstance(part, AuditRun):
        return f"{part.column}, seed {part.seed}: validation loss {part.validation_loss:.5f}, m {part.m:.3f}"
    return f"inert term, seed {part.seed}: largest difference of a weight {part.difference:g}"


def seconds(config: AuditConfig, n_workers: int) -> float:
    """Estimate the wall-clock time that all of it takes, from a few steps of the most expensive arm.

    Args:
        config: what is to be run.
        n_workers: processes that share the runs, with a core each.

    Returns:
        Seconds.
    """
    short = config.model_copy(update={"n_steps": 100})
    run(short, "jacobian", config.seeds[0])
    start = time.perf_counter()
    run(short, "jacobian", config.seeds[0])
    each = (time.perf_counter() - start) * config.n_steps / short.n_steps
    return each * len(ARMS) * len(config.seeds) / n_workers
