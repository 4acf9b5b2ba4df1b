"""Does the datapoint score find the features that serve a repeated point? On toys, where it is known which do."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.benchmarks.inspection.area_under_curve import area_under_curve
from faithfulness_plugin.benchmarks.inspection.configs import ToyScoresConfig
from faithfulness_plugin.benchmarks.note.scan.settings import Settings
from faithfulness_plugin.benchmarks.note.trainer.ensemble import EnsembleResult, train_ensemble
from faithfulness_plugin.inspection.datapoint_score import FLAGGED
from faithfulness_plugin.inspection.records import feature_records
from faithfulness_plugin.inspection.subjects import toy_subject
from faithfulness_plugin.metrics.memorization import memorization_by_feature
from faithfulness_plugin.results.experiment import Experiment, Running
from faithfulness_plugin.results.intervals import share
from faithfulness_plugin.results.markdown import markdown_table, share_text
from faithfulness_plugin.results.schema import Environment, Record, Result
from faithfulness_plugin.results.timing import torch_threads
from faithfulness_plugin.results.workers import run_jobs
from faithfulness_plugin.toy.abs_network import AbsNetwork
from faithfulness_plugin.toy.inputs import AbsInputs

AT_A_TIME = 15  # transcoders of one ensemble: what an interrupt costs at most
WARM_UP, DECAY = 0.025, 0.3  # of the steps, as `faithfulness scan` trains
Arm = Literal["baseline", "repetition", "repetition, penalty 0.1", "repetition + Jacobian", "repetition + secant"]
ARMS: dict[Arm, dict[str, Any]] = {
    "baseline": {"repeat_frac": 0.0},
    "repetition": {},
    "repetition, penalty 0.1": {"sparsity_coefficient": 0.1},
    "repetition + Jacobian": {"jacobian_coefficient": 10.0, "jitter": 0.5},
    "repetition + secant": {"jacobian_coefficient": 10.0, "estimator": "secant"},
}
"""What differs from the default of `faithfulness reproduce`."""


class Scored(Record):
    """One transcoder on rows drawn as it was trained on, of a seed of their own."""

    condition: Arm
    seed: int
    fvu: float
    l0: float
    true: list[int] = Field(description="datapoint features, by m_i at p")
    flagged: list[int] = Field(description="features whose score reaches the mark")
    first: int | None = Field(description="the feature with the largest score; None where all are 0")
    scores: dict[int, float] = Field(description="score of every feature that fires, rounded to 4 decimals")
    unfaithful: dict[int, float] | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="1 - faithfulness of each of these; 0 where a feature carries nothing of the output",
    )
    unbacked: dict[int, float] | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="carried * (1 - faithfulness) of each of these, by which a page ranks the least faithful",
    )


class ToyScoresResult(Result):
    """The score on transcoders of |x|, where datapoint features are known."""

    benchmark: Literal["inspection-toy"] = "inspection-toy"
    schema_version: Literal[1] = 1
    config: ToyScoresConfig
    flag: float = Field(description="the score from which on a feature is flagged")
    scored: list[Scored]

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {**self.config.model_dump(), "flag": self.flag}


class ToyScores(Experiment[ToyScoresConfig, ToyScoresResult]):
    """One part for each transcoder; ensembles of an arm are trained together."""

    parts = "transcoders"
    config_class = ToyScoresConfig

    @override
    def fresh(self, config: ToyScoresConfig) -> ToyScoresResult:
        return ToyScoresResult(complete=False, environment=Environment.here(), config=config, flag=FLAGGED, scored=[])

    @override
    def progress(self, result: ToyScoresResult) -> tuple[int, int]:
        return len(result.scored), len(ARMS) * result.config.n_seeds

    @override
    def run(self, result: ToyScoresResult, running: Running) -> Iterator[tuple[ToyScoresResult, str]]:
        config, order, found = result.config, list(ARMS), list(result.scored)
        done = {(of.condition, of.seed) for of in found}
        seeds = range(config.seed, config.seed + config.n_seeds)
        missing = {arm: [seed for seed in seeds if (arm, seed) not in done] for arm in ARMS}
        jobs = [
            (config, arm, left[start : start + AT_A_TIME])
            for arm, left in missing.items()
            for start in range(0, len(left), AT_A_TIME)
        ]
        for scored in run_jobs(score_toys, jobs, n_jobs=running.n_jobs, backend=running.backend):
            found = sorted([*found, *scored], key=lambda of: (order.index(of.condition), of.seed))
            complete = len(found) == len(ARMS) * config.n_seeds
            yield result.model_copy(update={"scored": found, "complete": complete}), scored[0].condition

    @override
    def tables(self, result: ToyScoresResult) -> str:
        return toy_table(result)


@torch_threads(1)
def score_toys(config: ToyScoresConfig, arm: Arm, seeds: list[int]) -> list[Scored]:
    """Train one ensemble of an arm, and score the features of its transcoders.

    Args:
        config: steps and rows.
        arm: what is trained.
        seeds: one a transcoder.

    Returns:
        A record a transcoder.
    """
    trained, found = trained_toys(ARMS[arm], seeds, config.n_steps), []
    for i, seed in enumerate(seeds):
        settings, transcoder = Settings(**ARMS[arm], seed=seed), trained.transcoder(i)
        subject = toy_subject(
            settings.d_in,
            density=settings.density,
            repeat_frac=settings.repeat_frac,
            n_ones=settings.n_ones,
            n_rows=config.n_rows,
            seed=seed,
        )
        records = feature_records(transcoder, subject.sample, layer=subject.layer)
        point = AbsInputs(settings.d_in, n_ones=settings.n_ones).point
        m_i, maximum = memorization_by_feature(transcoder, point, layer=subject.layer)
        score, live = records.datapoint.score, np.flatnonzero(~records.dead)
        assert records.faithfulness is not None
        unfaithful = 1 - np.nan_to_num(records.faithfulness.faithfulness, nan=1.0)
        found.append(
            Scored(
                condition=arm,
                seed=seed,
                fvu=records.fvu,
                l0=records.l0,
                true=(m_i > config.truth * maximum).nonzero().flatten().tolist(),
                flagged=np.flatnonzero(records.flagged).tolist(),
                first=int(score.argmax()) if score.any() else None,
                scores=_rounded(score, live),
                unfaithful=_rounded(unfaithful, live),
                unbacked=_rounded(records.unbacked, live),
            )
        )
    return found


def _rounded(values: np.ndarray, live: np.ndarray) -> dict[int, float]:
    return {int(f): round(float(values[f]), 4) for f in live}


def trained_toys(settings: Mapping[str, Any], seeds: Sequence[int], n_steps: int) -> EnsembleResult:
    """Train transcoders of |x|, one a seed.

    Args:
        settings: what differs from the default of `faithfulness reproduce`.
        seeds: one a transcoder.
        n_steps: optimizer steps.

    Returns:
        The ensemble.
    """
    each = [Settings(**settings, n_steps=n_steps, seed=seed) for seed in seeds]
    return train_ensemble(
        [of.member() for of in each],
        AbsNetwork(each[0].d_in),
        n_steps=n_steps,
        lr=each[0].lr,
        lr_warm_up_steps=round(WARM_UP * n_steps),
        lr_decay_steps=round(DECAY * n_steps),
        progress=False,
    )


def toy_table(result: ToyScoresResult) -> str:
    """Format one arm a row, and what the score is worth over all of them.

    Args:
        result: complete or partial.

    Returns:
        Markdown.
    """
    header = [
        "arm",
        "seeds with a datapoint feature",
        "of these: ranked first",
        "flagged",
        "of all: nothing else flagged",
        "least score of one",
        "largest of another feature",
    ]
    by_arm = {arm: [each for each in result.scored if each.condition == arm] for arm in ARMS}
    c, partial = result.config, "" if result.complete else f"PARTIAL: {len(result.scored)} transcoders. "
    caption = (
        f"{partial}y = |x|, d_in 16, d_sae 64, {c.n_seeds} seeds an arm, {c.n_steps:,} steps; features looked at "
        f"on {c.n_rows:,} rows of another seed. A datapoint feature: its m_i at p is above {c.truth:g} of the maximum. "
        f"Flagged: a score of {result.flag:g} or more. Shares with 95 % Wilson intervals. Area under the ROC curve "
        f"over the features of all seeds: {area_over_all(result.scored):.4f}."
    )
    if result.scored and all(of.unfaithful is not None for of in result.scored):
        areas = (area_over_all(result.scored, of) for of in ("unfaithful", "unbacked"))
        caption += " By 1 - faithfulness {:.4f}, by what is unbacked {:.4f}.".format(*areas)
    rows = [_row(arm, of) for arm, of in by_arm.items() if of]
    return f"{markdown_table(header, rows)}\n\n{caption}\n"


def _row(arm: str, of: list[Scored]) -> list[str]:
    having = [each for each in of if each.true]
    least, first, found = "—", "—", "—"
    if having:
        least = f"{min(each.scores[f] for each in having for f in each.true):.2f}"
        first = _share([each.first in each.true for each in having])
        found = _share([set(each.true) <= set(each.flagged) for each in having])
    nothing_else = _share([set(each.flagged) <= set(each.true) for each in of])
    others = [score for each in of for feature, score in each.scores.items() if feature not in each.true]
    return [arm, f"{len(having)} of {len(of)}", first, found, nothing_else, least, f"{max(others):.2f}"]


def _share(which: list[bool]) -> str:
    return share_text(share(sum(which), len(which)))


def area_over_all(scored: Sequence[Scored], by: Literal["scores", "unfaithful", "unbacked"] = "scores") -> float:
    """Compute the area under the ROC curve over the live features of all transcoders together.

    Args:
        scored: the transcoders.
        by: what ranks the features, the largest first.

    Returns:
        The area; NaN where there is none.
    """
    pairs = [(score, feature in of.true) for of in scored for feature, score in (getattr(of, by) or {}).items()]
    scores, true = np.array(pairs, dtype=float).T
    area = area_under_curve(scores, true == 1)
    return float("nan") if area is None else area
