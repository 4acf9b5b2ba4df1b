"""Scores the features of many toy transcoders, where it is known which of them serve the repeated point."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from faithfulness_plugin.benchmarks.inspection.schema import (
    CONDITIONS,
    Condition,
    Scored,
    ToyScoresConfig,
    ToyScoresResult,
)
from faithfulness_plugin.benchmarks.note.scan.settings import Settings
from faithfulness_plugin.benchmarks.note.trainer.ensemble import EnsembleResult, train_ensemble
from faithfulness_plugin.inspection.datapoint_score import FLAGGED
from faithfulness_plugin.inspection.records import feature_records
from faithfulness_plugin.inspection.sample import row_sample
from faithfulness_plugin.metrics.memorization import memorization_by_feature
from faithfulness_plugin.results.result_file import RESULT_FILENAME, begin_or_go_on
from faithfulness_plugin.results.schema import Environment, write_text
from faithfulness_plugin.results.threads import torch_threads
from faithfulness_plugin.results.workers import each_done
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.toy.abs_network import AbsNetwork
from faithfulness_plugin.toy.inputs import AbsInputs

AT_A_TIME = 15  # transcoders of one ensemble: what an interrupt costs at most
WARM_UP, DECAY = 0.025, 0.3  # of the steps, as `faithfulness scan` trains


def open_toy(out: Path, config: ToyScoresConfig, *, overwrite: bool = False) -> ToyScoresResult:
    """The result that stands in `out`, to be completed, or an empty one. Raises ResultError as `begin_or_go_on`."""
    fresh = ToyScoresResult(complete=False, environment=Environment.here(), config=config, flag=FLAGGED, scored=[])
    return begin_or_go_on(out, fresh, overwrite=overwrite)


def complete_toy(
    result: ToyScoresResult, out: Path, *, n_jobs: int, on_done: Callable[[list[Scored]], None] = lambda _: None
) -> ToyScoresResult:
    """Trains and scores what is missing, on `n_jobs` cores; the file in `out` holds what is done."""
    done = {(of.condition, of.seed) for of in result.scored}
    seeds = range(result.config.seed, result.config.seed + result.config.n_seeds)
    missing = [(condition, [s for s in seeds if (condition, s) not in done]) for condition in CONDITIONS]
    jobs = [
        (result.config, condition, left[start : start + AT_A_TIME])
        for condition, left in missing
        for start in range(0, len(left), AT_A_TIME)
    ]
    order = list(CONDITIONS)
    for number, scored in enumerate(each_done(score_toys, jobs, n_jobs=n_jobs)):
        everything = sorted([*result.scored, *scored], key=lambda of: (order.index(of.condition), of.seed))
        result = result.model_copy(update={"scored": everything, "complete": number == len(jobs) - 1})
        write_text(out / RESULT_FILENAME, result.model_dump_json(indent=1))
        on_done(scored)
    return result


@torch_threads(1)
def score_toys(config: ToyScoresConfig, condition: Condition, seeds: list[int]) -> list[Scored]:
    """One ensemble, trained and looked at."""
    trained, layer = trained_toys(CONDITIONS[condition], seeds, config.n_steps), AbsNetwork(Settings().d_in)
    found = []
    for i, seed in enumerate(seeds):
        settings = Settings(**CONDITIONS[condition], seed=seed)
        transcoder = trained.transcoder(i)
        rows = AbsInputs(
            settings.d_in,
            settings.density,
            settings.repeat_frac,
            settings.n_ones,
            config.n_rows,
            derived_seed(settings.seed, "rows to look at"),
        )
        records = feature_records(transcoder, row_sample(layer, next(rows)))
        m_i, maximum = memorization_by_feature(transcoder, rows.point, layer=layer)
        score = records.datapoint.score
        found.append(
            Scored(
                condition=condition,
                seed=settings.seed,
                fvu=records.fvu,
                l0=records.l0,
                true=(m_i > config.truth * maximum).nonzero().flatten().tolist(),
                flagged=np.flatnonzero(records.flagged).tolist(),
                first=int(score.argmax()) if score.any() else None,
                scores={int(f): round(float(score[f]), 4) for f in np.flatnonzero(~records.dead)},
            )
        )
    return found


def trained_toys(condition: Mapping[str, Any], seeds: Sequence[int], n_steps: int) -> EnsembleResult:
    """Transcoders of |x|, one a seed."""
    each = [Settings(**condition, n_steps=n_steps, seed=seed) for seed in seeds]
    return train_ensemble(
        [settings.member() for settings in each],
        AbsNetwork(each[0].d_in),
        n_steps=n_steps,
        lr=each[0].lr,
        lr_warm_up_steps=round(WARM_UP * n_steps),
        lr_decay_steps=round(DECAY * n_steps),
        progress=False,
    )


def area_under_curve(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Under the ROC curve: the probability that a positive has a larger score than another one, ties by half. None
    where there is none of either."""
    n, others = int(positive.sum()), int((~positive).sum())
    if not n or not others:
        return None
    return float((rankdata(scores)[positive].sum() - n * (n + 1) / 2) / (n * others))
