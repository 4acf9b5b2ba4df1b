"""The benchmark's second track as an experiment: methods at chains, the shipped methods' trials many at once."""

from collections.abc import Iterator
from itertools import groupby

from typing_extensions import override

from faithfulness_plugin.benchmarks.chains.config import ChainsConfig
from faithfulness_plugin.benchmarks.chains.methods import chain_method
from faithfulness_plugin.benchmarks.chains.schema import ChainsResult, ChainTrial, ChainTrialRecord
from faithfulness_plugin.benchmarks.methods.registry import import_method, is_outside, source_digest
from faithfulness_plugin.benchmarks.suite.schema import MethodSpec
from faithfulness_plugin.results.experiment import Experiment, Running
from faithfulness_plugin.results.schema import Environment
from faithfulness_plugin.results.workers import run_jobs


class Chains(Experiment[ChainsConfig, ChainsResult]):
    """Methods at chains of layers whose mechanism is known."""

    parts = "trials"
    config_class = ChainsConfig
    page_filename = "report.md"
    indent = None

    @override
    def fresh(self, config: ChainsConfig) -> ChainsResult:
        from faithfulness_plugin.benchmarks.chains.tasks import chain_task

        return ChainsResult(
            complete=False,
            environment=Environment.here(),
            config=config,
            methods=[method_spec(name, config) for name in config.methods],
            layer_l0={name: chain_task(name).l0 for name in config.tasks},
            trials=[],
        )

    @override
    def progress(self, result: ChainsResult) -> tuple[int, int]:
        return len(result.trials), len(result.planned)

    @override
    def run(self, result: ChainsResult, running: Running) -> Iterator[tuple[ChainsResult, str]]:
        done = {trial.key for trial in result.trials}
        missing = [trial for trial in result.planned if trial.key not in done]
        jobs = [
            (list(group), result.config) for _, group in groupby(missing, key=lambda trial: (trial.task, trial.method))
        ]
        for records in run_jobs(
            _run_group,
            jobs,
            n_jobs=running.n_jobs,
            backend=running.backend,
            on_death=lambda n: running.note(f"a worker died; {n} groups of trials are started again"),
        ):
            result = result.with_trials([*result.trials, *records])
            yield result, _line(records)

    @override
    def failed(self, result: ChainsResult) -> list[str]:
        from faithfulness_plugin.benchmarks.suite.report import failures

        return failures(result.trials)

    @override
    def tables(self, result: ChainsResult) -> str:
        from faithfulness_plugin.benchmarks.chains.report import tables

        return tables(result)

    @override
    def page(self, result: ChainsResult) -> str:
        from faithfulness_plugin.benchmarks.chains.report import page

        return page(result)


def method_spec(name: str, config: ChainsConfig) -> MethodSpec:
    """Describe a method with everything that decides what it does.

    Args:
        name: a shipped method's, or a reference.
        config: steps, strengths and coefficients of the shipped methods.

    Returns:
        The description.

    Raises:
        MethodError: an outside method that cannot be imported or used.
    """
    if is_outside(name):
        method = import_method(name)
        return MethodSpec(name=name, strengths=[float(s) for s in method.strengths], source=source_digest(name, method))
    shipped = chain_method(name, config.n_steps, tuple(config.strengths), config.coefficients)
    return MethodSpec(name=name, strengths=list(shipped.strengths), source="baseline", settings=shipped.settings())


def _run_group(trials: list[ChainTrial], config: ChainsConfig) -> list[ChainTrialRecord]:
    """Run trials of one task and one method, shipped or outside."""
    from faithfulness_plugin.benchmarks.chains.trials import run_together, train_and_score
    from faithfulness_plugin.benchmarks.suite.outside import run_outside

    name = trials[0].method
    if is_outside(name):
        return run_outside(name, trials, config.time_limit, train_and_score, ChainTrialRecord)
    return run_together(trials, chain_method(name, config.n_steps, tuple(config.strengths), config.coefficients))


def _line(trials: list[ChainTrialRecord]) -> str:
    """Summarise finished trials of one method at one task."""
    kept = [trial.scores.hops_kept for trial in trials if trial.scores is not None]
    failed = f", {len(trials) - len(kept)} failed" if len(kept) < len(trials) else ""
    seen = f", hops kept {min(kept):.2f} to {max(kept):.2f}" if kept else ""
    return f"{trials[0].task}, {trials[0].method}: {len(trials)} trials{seen}{failed}"
