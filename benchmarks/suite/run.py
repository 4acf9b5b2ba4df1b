"""The benchmark from its spec to its result: in parallel, written as parts end, resumed where it was interrupted."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from faithfulness_plugin.benchmarks.methods.registry import (
    baseline,
    checked_strengths,
    chosen,
    is_outside,
    outside,
    source_digest,
)
from faithfulness_plugin.benchmarks.suite.outside import run_outside
from faithfulness_plugin.benchmarks.suite.schema import SEEDS, MethodSpec, SuiteResult, SuiteSpec, Trial, TrialRecord
from faithfulness_plugin.benchmarks.suite.scores import l0_of
from faithfulness_plugin.benchmarks.suite.sizes import SIZES
from faithfulness_plugin.benchmarks.suite.trials import cost, run_together
from faithfulness_plugin.benchmarks.tasks.registry import task
from faithfulness_plugin.results.result_file import RESULT_FILENAME, begin_or_go_on
from faithfulness_plugin.results.schema import Environment, write_text
from faithfulness_plugin.results.workers import Backend, each_done


def make_spec(
    size: str,
    *,
    tasks: Sequence[str] = (),
    methods: Sequence[str] = (),
    n_seeds: int | None = None,
    n_steps: int | None = None,
    time_limit: float = 600.0,
) -> SuiteSpec:
    """A size, with what is given in place of its own.

    Raises ValueError (`MethodError` for a method), in one line that says what to do."""
    of = SIZES[size]
    names, n_seeds = list(tasks) or list(of.tasks), of.n_seeds if n_seeds is None else n_seeds
    if not 1 <= n_seeds <= len(SEEDS):
        raise ValueError(f"--seeds {n_seeds}: the frozen list has {len(SEEDS)} of them, choose 1 to {len(SEEDS)}")
    for name in names:
        task(name)
    n_steps = of.n_steps if n_steps is None else n_steps
    return SuiteSpec(
        tasks=list(dict.fromkeys(names)),
        methods=[method_spec(name, n_steps) for name in chosen(methods or of.methods)],
        seeds=list(SEEDS[:n_seeds]),
        n_steps=n_steps,
        time_limit=time_limit,
    )


def method_spec(name: str, n_steps: int) -> MethodSpec:
    """A method with all that decides what it does. Raises MethodError for one that is not there."""
    if is_outside(name):
        method = outside(name)
        return MethodSpec(
            name=name, strengths=list(checked_strengths(name, method.strengths)), source=source_digest(name, method)
        )
    method = baseline(name, n_steps)
    return MethodSpec(
        name=name, strengths=[float(s) for s in method.strengths], source="baseline", settings=method.settings()
    )


def open_result(out: Path, spec: SuiteSpec, *, overwrite: bool = False) -> SuiteResult:
    """The result that stands in `out`, to be completed, or an empty one that has just been written there.

    Raises ResultError as `begin_or_go_on` does."""
    l0 = {name: l0_of(task(name)) for name in spec.tasks}
    fresh = SuiteResult(complete=False, environment=Environment.here(), spec=spec, layer_l0=l0, trials=[])
    return begin_or_go_on(out, fresh, overwrite=overwrite)


def parts(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Trials that are run together: those of one task and one method; of an outside one, whose trials take turns,
    those of one strength, so that cores share them and an interrupt loses few."""

    def of(trial: Trial) -> tuple[object, ...]:
        return trial.task, trial.method, trial.strength if is_outside(trial.method) else None

    return [list(group) for _, group in groupby(trials, key=of)]


def part_cost(part: Sequence[Trial], n_steps: int) -> float:
    """In floating-point operations. What outside methods cost nobody knows: as much as a baseline, for want of
    better."""
    if is_outside(part[0].method):
        part = [trial.model_copy(update={"method": "relu_tanh-none"}) for trial in part]
    return float(cost(part, n_steps))


def complete(
    result: SuiteResult,
    out: Path,
    *,
    n_jobs: int,
    backend: Backend = "local",
    on_part: Callable[[list[TrialRecord]], None] = lambda _: None,
    on_death: Callable[[int], None] = lambda _: None,
) -> SuiteResult:
    """Runs what is missing; after each part the file in `out` holds all that is done."""
    for records in run_trials(result.spec, result.missing(), n_jobs=n_jobs, backend=backend, on_death=on_death):
        result = merged(result, records)
        write_text(out / RESULT_FILENAME, result.model_dump_json())
        on_part(records)
    return result


def run_trials(
    spec: SuiteSpec,
    trials: Sequence[Trial],
    *,
    n_jobs: int,
    backend: Backend = "local",
    on_death: Callable[[int], None] = lambda _: None,
) -> Iterator[list[TrialRecord]]:
    """The records of these trials, part by part as they end."""
    jobs = [(part, spec.n_steps, spec.time_limit) for part in parts(trials)]
    yield from each_done(_run_part, jobs, n_jobs=n_jobs, backend=backend, on_death=on_death)


def _run_part(part: list[Trial], n_steps: int, time_limit: float) -> list[TrialRecord]:
    if is_outside(part[0].method):
        return run_outside(part[0].method, part, time_limit)
    return run_together(part, n_steps)


def merged(result: SuiteResult, records: Sequence[TrialRecord]) -> SuiteResult:
    """With these as well, in the spec's order."""
    order = {trial.key: n for n, trial in enumerate(result.spec.trials)}
    everything = sorted([*result.trials, *records], key=lambda record: order[record.key])
    return result.with_trials(everything, complete=len(everything) == len(order))
