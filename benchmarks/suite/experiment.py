"""The benchmark as an experiment: trials in parallel, the shipped methods' many at once, outside ones one by one."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from typing_extensions import override

from faithfulness_plugin.benchmarks.methods.registry import is_outside
from faithfulness_plugin.benchmarks.suite import report
from faithfulness_plugin.benchmarks.suite.outside import run_outside
from faithfulness_plugin.benchmarks.suite.schema import SuiteResult, SuiteSpec, Trial, TrialRecord
from faithfulness_plugin.benchmarks.suite.scores import l0_of
from faithfulness_plugin.benchmarks.suite.trials import run_together
from faithfulness_plugin.benchmarks.tasks.registry import task
from faithfulness_plugin.results.experiment import Experiment, Running
from faithfulness_plugin.results.schema import Environment
from faithfulness_plugin.results.workers import run_jobs


class FaithfulnessSuite(Experiment[SuiteSpec, SuiteResult]):
    """Methods at layers whose mechanism is known."""

    parts = "trials"
    config_class = SuiteSpec
    indent = None

    @override
    def fresh(self, config: SuiteSpec) -> SuiteResult:
        l0 = {name: l0_of(task(name)) for name in config.tasks}
        return SuiteResult(complete=False, environment=Environment.here(), spec=config, layer_l0=l0, trials=[])

    @override
    def progress(self, result: SuiteResult) -> tuple[int, int]:
        return len(result.trials), len(result.spec.trials)

    @override
    def run(self, result: SuiteResult, running: Running) -> Iterator[tuple[SuiteResult, str]]:
        done = {trial.key for trial in result.trials}
        missing = [trial for trial in result.spec.trials if trial.key not in done]
        jobs = [(group, result.spec.n_steps, result.spec.time_limit) for group in groups(missing)]
        for records in run_jobs(
            _run_group,
            jobs,
            n_jobs=running.n_jobs,
            backend=running.backend,
            on_death=lambda n: running.note(f"a worker died; {n} groups of trials are started again"),
        ):
            result = result.with_trials([*result.trials, *records])
            yield result, report.progress_line(records)

    @override
    def failed(self, result: SuiteResult) -> list[str]:
        return report.failures(result.trials)

    @override
    def tables(self, result: SuiteResult) -> str:
        return report.tables(result)


def groups(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Group the trials that are run together: those of one task and one method.

    An outside method's trials are run one after another; one strength makes a group, so that cores share them and an
    interrupt loses few.

    Args:
        trials: in the spec's order.

    Returns:
        The groups, in the same order.
    """

    def key(trial: Trial) -> tuple[object, ...]:
        return trial.task, trial.method, trial.strength if is_outside(trial.method) else None

    return [list(group) for _, group in groupby(trials, key=key)]


def _run_group(trials: list[Trial], n_steps: int, time_limit: float) -> list[TrialRecord]:
    """Run trials of one task and one method, shipped or outside."""
    if is_outside(trials[0].method):
        return run_outside(trials[0].method, trials, time_limit)
    return run_together(trials, n_steps)
