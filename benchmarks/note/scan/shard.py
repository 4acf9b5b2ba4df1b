"""A part of a scan: members that are trained together in one process, and measured."""

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from faithfulness_plugin import metrics
from faithfulness_plugin.benchmarks.note.scan.schema import AbsScore, Extras, FeatureWeights, Trained
from faithfulness_plugin.benchmarks.note.scan.spec import Point, ScanSpec
from faithfulness_plugin.benchmarks.note.toy_problem import ToyProblem, rounded
from faithfulness_plugin.benchmarks.note.trainer.ensemble import train_ensemble
from faithfulness_plugin.benchmarks.note.trainer.program import Program
from faithfulness_plugin.jacobian.exact import transcoder_jacobian
from faithfulness_plugin.results.threads import torch_threads
from faithfulness_plugin.toy.circuits import datapoint_circuit
from faithfulness_plugin.transcoders.base import NonFiniteError, TrainingTranscoder

CHECKPOINT_EVERY = 500
TOP = (1, 2, 4, 8)
DISTANCES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0)
VALUES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)


def shards(spec: ScanSpec, points: Sequence[Point], size: int, n_jobs: int) -> list[list[Point]]:
    """The points in parts of at most `size`, small enough for all jobs to have some. Points of one part have one layer
    and one training schedule; those of one program are kept together, for they are computed together."""
    kinds: dict[Any, list[Point]] = {}
    for point in points:
        settings = spec.settings(point)
        schedule = (settings.problem(spec.n_validation, spec.n_jacobian), settings.n_steps, settings.lr)
        kinds.setdefault((schedule, Program.of(settings.member())), []).append(point)
    parts: list[list[Point]] = []
    for like in kinds.values():
        like = sorted(like, key=lambda point: point.seed)
        step = max(1, min(size, -(-len(like) // n_jobs)))
        parts += [like[i : i + step] for i in range(0, len(like), step)]
    return sorted(parts, key=lambda part: -cost(spec, part))  # the dearest first: no job is left with it at the end


def cost(spec: ScanSpec, points: Sequence[Point]) -> int:
    """Floating-point operations of their matrix products: enough to say how much is left."""
    of = [spec.settings(point) for point in points]
    return sum(s.n_steps * Program.of(s.member()).flops for s in of)


class Failed(NamedTuple):
    """A transcoder that could not be trained or measured."""

    point: Point
    why: str


class Shard(NamedTuple):
    """What became of a part."""

    trained: list[Trained]
    failed: list[Failed]


@torch_threads(1)
def train_shard(spec: ScanSpec, points: Sequence[Point], folder: Path | None) -> Shard:
    """Trains and measures, with one thread: shards run beside each other, and the same shard gives the same numbers.

    Where a member diverges, all of them are trained again, each alone, so that it costs the others nothing but time.

    Args:
        folder: for a checkpoint, or None for none.
    """
    try:
        return _train(spec, points, folder)
    except NonFiniteError as error:
        if len(points) == 1:
            return Shard([], [Failed(points[0], str(error))])
        alone = [train_shard(spec, [point], folder) for point in points]
        return Shard([t for shard in alone for t in shard.trained], [f for shard in alone for f in shard.failed])


def _train(spec: ScanSpec, points: Sequence[Point], folder: Path | None) -> Shard:
    first = spec.settings(points[0])
    problem = _problem(first.problem(spec.n_validation, spec.n_jacobian))

    def watch(_: int, transcoder: TrainingTranscoder[Any]) -> dict[str, float]:
        memorization = metrics.memorization(transcoder, problem.point, layer=problem.layer)
        return {"m": memorization.m, "m_fraction": memorization.fraction}

    ensemble = train_ensemble(
        [spec.settings(point).member() for point in points],
        problem.layer,
        n_steps=first.n_steps,
        lr=first.lr,
        lr_warm_up_steps=first.n_steps // 40,
        lr_decay_steps=3 * first.n_steps // 10,
        log_every=spec.log_every,
        evaluate=watch if spec.log_every else None,
        checkpoint=None if folder is None else folder / f"{digest(spec, points)}.pt",
        checkpoint_every=None if folder is None else CHECKPOINT_EVERY,
        progress=False,
    )
    shard = Shard([], [])
    for i, point in enumerate(points):
        history = [{k: float(v) for k, v in record.items()} for record in ensemble.history[i]] if spec.log_every else []
        try:
            shard.trained.append(_measured(spec, problem, point, ensemble.transcoder(i), history))
        except ValueError as error:  # a metric that is undefined for this transcoder
            shard.failed.append(Failed(point, str(error).splitlines()[0]))
    return shard


def _measured(
    spec: ScanSpec,
    problem: ToyProblem,
    point: Point,
    transcoder: TrainingTranscoder[Any],
    history: list[dict[str, float]],
) -> Trained:
    measured, extras = problem.measure(transcoder), _extras(spec, problem, transcoder)
    return Trained(**point.model_dump(), metrics=measured, extras=extras, history=history)


def digest(spec: ScanSpec, points: Sequence[Point]) -> str:
    """A file name for these points with all of their settings."""
    settings = [spec.settings(point).model_dump_json() for point in points]
    return hashlib.sha256("".join(settings).encode()).hexdigest()[:16]


@lru_cache(maxsize=4)
def _problem(problem: ToyProblem) -> ToyProblem:
    """The same object for equal problems, whose layer and rows it keeps."""
    return problem


def _extras(spec: ScanSpec, problem: ToyProblem, transcoder: TrainingTranscoder[Any]) -> Extras:
    rows = problem.clean[: spec.n_jacobian]
    measures: dict[str, Any] = {
        "jacobian_at_point": lambda: rounded(transcoder_jacobian(transcoder, problem.point)),
        "projection": lambda: problem.project(transcoder),
        "weights": lambda: _weights(transcoder, problem.repeated),
        "near_point": lambda: metrics.near_point(transcoder, problem.layer, problem.point, DISTANCES, VALUES).to_dict(),
        "masking": lambda: metrics.gradient_masking(transcoder, rows).to_dict(),
        "spectrum": lambda: metrics.jacobian_spectrum(
            transcoder, problem.layer, rows, [k for k in TOP if k <= problem.d_in]
        ).to_dict(),
        "abs_score": lambda: _abs_score(problem, transcoder),
        "point_circuit": lambda: problem.best_match(transcoder, [datapoint_circuit(problem.point)])[0],
    }
    return Extras.model_validate({name: measures[name]() for name in spec.extras})


def _abs_score(problem: ToyProblem, transcoder: TrainingTranscoder[Any]) -> AbsScore:
    measured = dataclasses.replace(problem, layer_name="abs").measure(transcoder)
    return AbsScore(**{name: getattr(measured, name) for name in AbsScore.model_fields})


@torch.no_grad()
def _weights(transcoder: TrainingTranscoder[Any], x: Tensor) -> FeatureWeights:
    size = transcoder.encode(x).square().mean(0).sqrt() * transcoder.W_dec.norm(dim=1)
    order = size.argsort(descending=True)[: int((size > 0.01 * size.max()).sum())]
    return FeatureWeights(
        features=order.tolist(),
        W_enc=rounded(transcoder.W_enc.T[order]),
        b_enc=rounded(transcoder.b_enc[order]),
        W_dec=rounded(transcoder.W_dec[order]),
    )
