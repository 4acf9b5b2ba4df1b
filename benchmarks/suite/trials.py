"""Trials of shipped methods: many transcoders trained at once, and scored."""

from collections.abc import Sequence
from time import perf_counter

from pydantic import ValidationError

from faithfulness_plugin.benchmarks.methods.registry import baseline
from faithfulness_plugin.benchmarks.note.trainer.ensemble import train_ensemble
from faithfulness_plugin.benchmarks.suite.schema import Trial, TrialRecord
from faithfulness_plugin.benchmarks.suite.scores import score
from faithfulness_plugin.benchmarks.tasks.registry import task
from faithfulness_plugin.messages import one_line
from faithfulness_plugin.results.timing import torch_threads
from faithfulness_plugin.transcoders.base import NonFiniteError


@torch_threads(1)
def run_together(trials: Sequence[Trial], n_steps: int) -> list[TrialRecord]:
    """Train and score trials of one task and one shipped method, with one thread.

    Where one of them diverges, each is trained again alone, so that it costs the others nothing but time.

    Args:
        trials: of different seeds and strengths.
        n_steps: optimizer steps.

    Returns:
        A record a trial.
    """
    method = baseline(trials[0].method, n_steps)
    start = perf_counter()
    try:
        ensembles = []
        for hop in task(trials[0].task).hops:
            d_out = hop.layer.W_out.shape[1]
            members = [method.member(hop.rows, d_out, seed=t.seed, strength=t.strength) for t in trials]
            ensembles.append(train_ensemble(members, hop.layer, progress=False, **method.schedule))
    except NonFiniteError as error:
        if len(trials) == 1:
            return [TrialRecord(**trials[0].model_dump(), failed=one_line(error), seconds=perf_counter() - start)]
        return [record for trial in trials for record in run_together([trial], n_steps)]
    each = (perf_counter() - start) / len(trials)
    return [scored(trial, [ensemble.transcoder(i) for ensemble in ensembles], each) for i, trial in enumerate(trials)]


def scored(trial: Trial, transcoders: Sequence[object], seconds: float) -> TrialRecord:
    """Score the transcoders of a trial.

    Args:
        trial: what was trained.
        transcoders: one a hop.
        seconds: that their training took.

    Returns:
        The record, with the reason where they cannot be scored.
    """
    start = perf_counter()
    try:
        scores, failed = score(task(trial.task), transcoders), None
    except ValidationError as error:
        names = ", ".join(str(e["loc"][0]) for e in error.errors())
        scores, failed = None, f"NaN or Inf in {names}: the transcoder's outputs are not finite on all rows"
    except Exception as error:  # an outside transcoder may raise anything
        scores, failed = None, f"{type(error).__name__}: {one_line(error)}"
    return TrialRecord(**trial.model_dump(), scores=scores, failed=failed, seconds=seconds + perf_counter() - start)
