"""A part of a scan: members that are trained together in one process, and measured."""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from faithfulness_plugin import metrics
from faithfulness_plugin.benchmarks.note.scan.schema import AbsScore, Extras, FeatureWeights, Trained
from faithfulness_plugin.benchmarks.note.scan.settings import Settings
from faithfulness_plugin.benchmarks.note.scan.spec import Point, ScanSpec
from faithfulness_plugin.benchmarks.note.toy_problem import ToyProblem, rounded
from faithfulness_plugin.benchmarks.note.trainer.ensemble import train_ensemble
from faithfulness_plugin.benchmarks.note.trainer.program import Program
from faithfulness_plugin.jacobian.exact import transcoder_jacobian
from faithfulness_plugin.results.experiment import Running
from faithfulness_plugin.results.timing import torch_threads
from faithfulness_plugin.results.workers import n_workers, run_jobs
from faithfulness_plugin.toy.circuits import datapoint_circuit
from faithfulness_plugin.transcoders.base import NonFiniteError, TrainingTranscoder

SHARDS = ".shards"  # checkpoints of parts that are being trained, inside the result's folder
SHARD_SIZE = 32
CHECKPOINT_EVERY = 500
TOP = (1, 2, 4, 8)
DISTANCES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0)
VALUES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)


class Failed(NamedTuple):
    """A transcoder that could not be trained or measured."""

    point: Point
    why: str


class Shard(NamedTuple):
    """What became of a part."""

    trained: list[Trained]
    failed: list[Failed]
    seconds: float
    """Time of training, each member's share."""


def shards(spec: ScanSpec, points: Sequence[Point], size: int, n_jobs: int) -> list[list[Point]]:
    """Split the points into parts of at most `size`, small enough for all jobs to have some.

    Points of one part have one layer and one training schedule; those of one program are kept together, for they are
    computed together.

    Args:
        spec: the scan.
        points: those that are to be trained.
        size: points of a part, at most.
        n_jobs: processes that share the parts.

    Returns:
        The parts, the most expensive first.
    """
    alike: dict[Any, list[Point]] = {}
    for point in points:
        settings = spec.settings(point)
        schedule = (_problem(spec, settings), settings.n_steps, settings.lr)
        alike.setdefault((schedule, Program.of(settings.member())), []).append(point)
    parts: list[list[Point]] = []
    for like in alike.values():
        like = sorted(like, key=lambda point: point.seed)
        step = max(1, min(size, -(-len(like) // n_jobs)))
        parts += [like[i : i + step] for i in range(0, len(like), step)]
    return sorted(parts, key=lambda part: -cost(spec, part))  # the most expensive first: none is left at the end


def cost(spec: ScanSpec, points: Sequence[Point]) -> int:
    """Count the floating-point operations of their matrix products: enough to say how much is left.

    Args:
        spec: the scan.
        points: those that are to be trained.

    Returns:
        Operations, over all steps.
    """
    of = [spec.settings(point) for point in points]
    return sum(s.n_steps * Program.of(s.member()).flops for s in of)


def train_shards(spec: ScanSpec, points: Sequence[Point], running: Running, size: int = SHARD_SIZE) -> Iterator[Shard]:
    """Train and measure these points in parallel. An interrupted part resumes from its checkpoint.

    Args:
        spec: the scan.
        points: those that are to be trained.
        running: the result's folder, the workers, and whether the scan resumes.
        size: members that a process trains together: memory grows with it, and a dead worker loses that many.

    Yields:
        Shards, in the order in which they end.
    """
    folder = running.out / SHARDS
    if not running.resumes:
        shutil.rmtree(folder, ignore_errors=True)
    n_jobs = n_workers(running.n_jobs, running.backend)
    jobs = [(spec, part, folder.resolve()) for part in shards(spec, points, size, n_jobs)]
    yield from run_jobs(
        train_shard,
        jobs,
        n_jobs=n_jobs,
        backend=running.backend,
        on_death=lambda n: running.note(f"a worker died; {n} parts are started again from their last checkpoints"),
    )
    shutil.rmtree(folder, ignore_errors=True)


@torch_threads(1)
def train_shard(spec: ScanSpec, points: Sequence[Point], folder: Path | None) -> Shard:
    """Train and measure, with one thread: shards run beside each other, and the same shard gives the same numbers.

    Where a member diverges, all of them are trained again, each alone, so that it costs the others nothing but time.

    Args:
        spec: the scan.
        points: those that are trained together, of one layer and one training schedule.
        folder: for a checkpoint, or None for none.

    Returns:
        What was trained, in the points' order, and what failed.
    """
    try:
        return _train(spec, points, folder)
    except NonFiniteError as error:
        if len(points) == 1:
            return Shard([], [Failed(points[0], str(error))], 0.0)
        alone = [train_shard(spec, [point], folder) for point in points]
        return Shard(
            [trained for shard in alone for trained in shard.trained],
            [failed for shard in alone for failed in shard.failed],
            sum(shard.seconds for shard in alone) / len(points),
        )


def _train(spec: ScanSpec, points: Sequence[Point], folder: Path | None) -> Shard:
    first = spec.settings(points[0])
    problem = _made(_problem(spec, first))

    def watch(_: int, transcoder: TrainingTranscoder[Any]) -> dict[str, float]:
        memorization = metrics.memorization(transcoder, problem.point, layer=problem.layer)
        return {"m": memorization.m, "m_fraction": memorization.fraction}

    start = perf_counter()
    ensemble = train_ensemble(
        [spec.settings(point).member() for point in points],
        problem.layer,
        **first.schedule,
        log_every=spec.log_every,
        evaluate=watch if spec.log_every else None,
        checkpoint=None if folder is None else folder / f"{digest(spec, points)}.pt",
        checkpoint_every=None if folder is None else CHECKPOINT_EVERY,
        progress=False,
    )
    shard = Shard([], [], (perf_counter() - start) / len(points))
    for i, point in enumerate(points):
        history = [{k: float(v) for k, v in record.items()} for record in ensemble.history[i]] if spec.log_every else []
        transcoder = ensemble.transcoder(i)
        try:
            measured, extras = problem.measure(transcoder), _extras(spec, problem, transcoder)
        except ValueError as error:  # a metric that is undefined for this transcoder
            shard.failed.append(Failed(point, str(error).splitlines()[0]))
        else:
            shard.trained.append(Trained(**point.model_dump(), metrics=measured, extras=extras, history=history))
    return shard


def digest(spec: ScanSpec, points: Sequence[Point]) -> str:
    """Make a file name for these points with all of their settings.

    Args:
        spec: the scan.
        points: those of one part.

    Returns:
        16 hexadecimal digits.
    """
    settings = [spec.settings(point).model_dump_json() for point in points]
    return hashlib.sha256("".join(settings).encode()).hexdigest()[:16]


def _problem(spec: ScanSpec, settings: Settings) -> ToyProblem:
    return settings.problem(spec.n_validation, spec.n_jacobian, spec.evaluation_repeat)


@lru_cache(maxsize=4)
def _made(problem: ToyProblem) -> ToyProblem:
    """Return the same object for equal problems, whose layer and rows it keeps."""
    return problem


def _extras(spec: ScanSpec, problem: ToyProblem, transcoder: TrainingTranscoder[Any]) -> Extras:
    rows, layer, point = problem.clean[: spec.n_jacobian], problem.layer, problem.point
    top, of_point = [k for k in TOP if k <= problem.d_in], datapoint_circuit(point)
    measures: dict[str, Callable[[], Any]] = {
        "jacobian_at_point": lambda: rounded(transcoder_jacobian(transcoder, point)),
        "projection": lambda: problem.project(transcoder),
        "weights": lambda: _weights(transcoder, problem.repeated),
        "near_point": lambda: metrics.near_point(transcoder, layer, point, DISTANCES, VALUES).to_dict(),
        "masking": lambda: metrics.gradient_masking(transcoder, rows).to_dict(),
        "spectrum": lambda: metrics.jacobian_spectrum(transcoder, layer, rows, top).to_dict(),
        "abs_score": lambda: _abs_score(problem, transcoder),
        "point_circuit": lambda: metrics.feature_recovery(transcoder, problem.repeated, [of_point]).mean_cosine,
    }
    return Extras.model_validate({name: measures[name]() for name in spec.extras})


def _abs_score(problem: ToyProblem, transcoder: TrainingTranscoder[Any]) -> AbsScore:
    measured = replace(problem, layer_name="abs").measure(transcoder)
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
