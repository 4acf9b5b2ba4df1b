"""Trials of the second track: trained and scored."""

from collections.abc import Sequence
from time import process_time
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin import metrics
from faithfulness_plugin.benchmarks.chains.chain_task import ChainTask
from faithfulness_plugin.benchmarks.chains.edges import edges_found
from faithfulness_plugin.benchmarks.chains.methods import BATCH_SIZE, ChainMethod
from faithfulness_plugin.benchmarks.chains.schema import ChainScores, ChainTrial, ChainTrialRecord
from faithfulness_plugin.benchmarks.chains.tasks import CHAINS, chain_task
from faithfulness_plugin.benchmarks.chains.training import train_members
from faithfulness_plugin.benchmarks.note.trainer.rows import RowInputs
from faithfulness_plugin.benchmarks.suite.outside import where_it_failed
from faithfulness_plugin.messages import one_line
from faithfulness_plugin.results.timing import torch_threads
from faithfulness_plugin.transcoders.base import NonFiniteError
from faithfulness_plugin.transcoders.cross_layer_function import CrossLayerFunction


@torch_threads(1)
def run_together(trials: Sequence[ChainTrial], method: ChainMethod) -> list[ChainTrialRecord]:
    """Train and score trials of one task and one shipped method: every strength with every seed.

    Args:
        trials: strength by strength, the seed changing fastest.
        method: what is trained.

    Returns:
        A record a trial.
    """
    task, start = chain_task(trials[0].task), process_time()
    try:
        members = train_members(task, method, list(dict.fromkeys(trial.seed for trial in trials)))
    except NonFiniteError as error:
        each = (process_time() - start) / len(trials)
        return [ChainTrialRecord(**t.model_dump(), failed=one_line(error), seconds=each) for t in trials]
    each = (process_time() - start) / len(trials)
    return [scored(trial, transcoder, each) for trial, transcoder in zip(trials, members, strict=True)]


class ChainInputs(RowInputs):
    """Gives an outside method endless batches [batch, n_layers * d_in] of what the layers read.

    Args:
        task: the chain and its rows.
        seed: decides the rows.
    """

    def __init__(self, task: ChainTask, seed: int) -> None:
        super().__init__(task.source, BATCH_SIZE, seed)
        self.chain, self.d_in, self.n_layers = task.chain, task.d, len(task.chain)

    @override
    def __next__(self) -> Tensor:
        return self.chain.rows(super().__next__())


class SideBySide(CrossLayerFunction):
    """One transcoder for each layer, as a cross-layer transcoder.

    Args:
        parts: the transcoders, the first layer's first.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts, self.n_layers = list(parts), len(parts)
        self.b_dec = torch.cat([part.b_dec for part in parts])

    @property
    @override
    def d_in_each(self) -> int:
        return self.parts[0].W_enc.shape[0]

    def __call__(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


def train_and_score(method: Any, trial: Any) -> ChainTrialRecord:
    """Run one trial of an outside method, in this process.

    Args:
        method: with `train`.
        trial: task, method, strength and seed.

    Returns:
        The record, which says what failed.
    """
    start = process_time()
    try:
        task = CHAINS[trial.task]()  # what a method does to it is not what it is scored by
        torch.manual_seed(trial.seed)
        made = method.train(task.chain, ChainInputs(task, trial.seed), seed=trial.seed, strength=trial.strength)
        transcoder = SideBySide(made) if isinstance(made, list | tuple) else made
        _require_fit(transcoder, task)
    except Exception as error:  # a method may raise anything
        return ChainTrialRecord(**trial.model_dump(), failed=where_it_failed(error), seconds=process_time() - start)
    return scored(trial, transcoder, process_time() - start)


def scored(trial: Any, transcoder: CrossLayerFunction, seconds: float) -> ChainTrialRecord:
    """Score the transcoder of a trial.

    Args:
        trial: what was trained.
        transcoder: the outcome, in `eval` mode.
        seconds: that its training took.

    Returns:
        The record, with the reason where it cannot be scored.
    """
    start = process_time()
    try:
        scores, failed = score(transcoder, chain_task(trial.task)), None
    except ValidationError as error:
        names = ", ".join(str(e["loc"][0]) for e in error.errors())
        scores, failed = None, f"NaN or Inf in {names}: the transcoder's outputs are not finite on all rows"
    except Exception as error:  # an outside transcoder may raise anything
        scores, failed = None, f"{type(error).__name__}: {one_line(error)}"
    return ChainTrialRecord(
        **trial.model_dump(), scores=scores, failed=failed, seconds=seconds + process_time() - start
    )


@torch.no_grad()
def score(transcoder: Any, task: ChainTask) -> ChainScores:
    """Score a transcoder on rows without points, which no method sees.

    Args:
        transcoder: cross-layer.
        task: the chain.

    Returns:
        The scores.
    """
    reconstruction = metrics.reconstruction(transcoder, task.chain, task.clean)
    y, t = (task.chain.split(of(task.clean))[-1] for of in (task.chain, transcoder))
    edges = edges_found(transcoder, task)
    return ChainScores(
        hops_kept=metrics.hops_kept(transcoder, task.clean, task.exact).kept,
        edge_precision=edges.precision,
        edge_recall=edges.recall,
        fvu=reconstruction.fvu,
        fvu_last=((t - y).square().sum() / (y - y.mean(0)).square().sum()).item(),
        l0=reconstruction.effective_l0,
    )


@torch.no_grad()
def _require_fit(transcoder: Any, task: ChainTask) -> None:
    """Raise ValueError, saying what is missing, for what is no transcoder of this chain, or has NaN or Inf."""
    if not isinstance(transcoder, CrossLayerFunction):
        raise ValueError(
            f"`train` returned a {type(transcoder).__name__}: return a cross-layer transcoder, or a list of one "
            "transcoder for each layer"
        )
    getattr(transcoder, "eval", bool)()
    if transcoder.n_layers != len(task.chain):
        raise ValueError(f"the transcoder has {transcoder.n_layers} layers, and the chain {len(task.chain)}")
    y: Any = transcoder(task.clean[:8])  # pyright: ignore
    if list(y.shape) != [8, len(task.chain) * task.d]:
        raise ValueError(f"transcoder(x) has shape {list(y.shape)}, not {[8, len(task.chain) * task.d]}")
    if not torch.isfinite(y).all():
        raise ValueError("transcoder(x) has NaN or Inf")
