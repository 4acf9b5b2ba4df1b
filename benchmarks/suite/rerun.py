"""Running a result again, from what stands in it, and saying whether the numbers agree."""

from collections.abc import Callable, Sequence

from faithfulness_plugin.benchmarks.methods.registry import MethodError
from faithfulness_plugin.benchmarks.suite.run import method_spec, run_trials
from faithfulness_plugin.benchmarks.suite.schema import SUITE_VERSION, SuiteResult, Trial, TrialRecord
from faithfulness_plugin.benchmarks.suite.scores import Scores
from faithfulness_plugin.results.agreement import TOLERANCE, Agreement, notes
from faithfulness_plugin.results.schema import Environment, ResultError


def sample(result: SuiteResult, n: int | None) -> list[Trial]:
    """n of the result's trials, spread evenly over it; all for None."""
    trials = [Trial(**{name: getattr(t, name) for name in Trial.model_fields}) for t in result.trials]
    if n is None or n >= len(trials):
        return trials
    return [trials[i * len(trials) // n] for i in range(n)]


def rerun(
    result: SuiteResult,
    trials: Sequence[Trial],
    *,
    n_jobs: int,
    tolerance: float = TOLERANCE,
    on_part: Callable[[list[TrialRecord]], None] = lambda _: None,
) -> Agreement:
    """Runs these trials as the result's spec says, and compares all of their scores.

    Raises:
        MethodError: a method is not there, or is not what it was.
        ResultError: the result is of another version of the benchmark.
    """
    if result.spec.suite_version != SUITE_VERSION:
        raise ResultError(
            f"the result is of version {result.spec.suite_version} of the benchmark, and this is version "
            f"{SUITE_VERSION}, whose numbers mean other things: rerun it with the version that wrote it"
        )
    for then in result.spec.methods:
        if not any(trial.method == then.name for trial in trials):
            continue
        now = method_spec(then.name, result.spec.n_steps)
        if changed := then.changed(now):
            raise MethodError(
                f"{then.name} is not what it was when the result was made ({changed}): bring it back, or run it anew"
            )
    before = {record.key: record for record in result.trials}
    disagree, largest = list[str](), 0.0
    for records in run_trials(result.spec, trials, n_jobs=n_jobs):
        for record in records:
            line, size = _disagreement(before[record.key], record, tolerance)
            largest = max(largest, size)
            if line:
                disagree.append(line)
        on_part(records)
    return Agreement(
        what="trials",
        n=len(trials),
        disagree=disagree,
        largest=largest,
        notes=notes(result.environment, Environment.here()),
    )


def _disagreement(then: TrialRecord, now: TrialRecord, tolerance: float) -> tuple[str, float]:
    where = f"{now.task}, {now.method}, strength {now.strength:g}, seed {now.seed}"
    if then.scores is None or now.scores is None:
        same = then.scores is None and now.scores is None
        return ("" if same else f"{where}: {then.failed or 'scored'} before, {now.failed or 'scored'} now"), 0.0
    sizes = {name: abs(getattr(then.scores, name) - getattr(now.scores, name)) for name in Scores.model_fields}
    name = max(sizes, key=lambda n: sizes[n])
    if sizes[name] <= tolerance:
        return "", sizes[name]
    return f"{where}: {name} {getattr(then.scores, name):.6g} before, {getattr(now.scores, name):.6g} now", sizes[name]
