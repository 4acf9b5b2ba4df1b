"""Run trials of a result again, from what stands in it."""

from typing import Any

from faithfulness_plugin.benchmarks.methods.registry import MethodError
from faithfulness_plugin.benchmarks.suite.experiment import FaithfulnessSuite
from faithfulness_plugin.benchmarks.suite.schema import SUITE_VERSION, SuiteResult
from faithfulness_plugin.benchmarks.suite.spec import method_spec
from faithfulness_plugin.differences import differences
from faithfulness_plugin.results.agreement import Rerun
from faithfulness_plugin.results.schema import ResultError


def rerun_of(result: SuiteResult, n: int | None = None) -> Rerun[SuiteResult]:
    """Prepare the rerun of a result's trials, spread evenly over it.

    Args:
        result: complete or partial.
        n: how many trials; None for all.

    Returns:
        The rerun.

    Raises:
        MethodError: a method of these trials does not exist, or is not what it was.
        ResultError: the result is of another version of the benchmark.
    """
    if result.spec.suite_version != SUITE_VERSION:
        raise ResultError(
            f"the result is of version {result.spec.suite_version} of the benchmark, and this is version "
            f"{SUITE_VERSION}, whose numbers mean other things: rerun it with the version that wrote it"
        )
    n_all = len(result.trials)
    n = n_all if n is None else min(n, n_all)
    sample = {i * n_all // n for i in range(n)}
    again = {result.trials[i].method for i in sample}
    for method in result.spec.methods:
        if method.name in again and (
            changed := differences(method.decisive, method_spec(method.name, result.spec.n_steps).decisive)
        ):
            raise MethodError(
                f"{method.name} has changed since the result was made ({changed}): restore it, or run the "
                "benchmark again"
            )
    partial = result.with_trials([trial for i, trial in enumerate(result.trials) if i not in sample])
    return Rerun(FaithfulnessSuite(), result, partial, _numbers)


def _numbers(result: SuiteResult) -> dict[str, Any]:
    """Return each trial's scores, by a description of the trial."""
    return {
        f"{t.task}, {t.method}, strength {t.strength:g}, seed {t.seed}": t.scores.model_dump() if t.scores else "none"
        for t in result.trials
    }
