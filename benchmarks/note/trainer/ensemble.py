"""Many toy transcoders trained at once, each as `train_transcoder` would have trained it alone."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.training.optim import get_lr_scheduler
from torch import Tensor
from tqdm.auto import tqdm

from faithfulness_plugin.benchmarks.note.trainer.checkpoint import load_checkpoint, save_checkpoint
from faithfulness_plugin.benchmarks.note.trainer.member import ToyMember
from faithfulness_plugin.benchmarks.note.trainer.objective import Objective
from faithfulness_plugin.benchmarks.note.trainer.program import Program
from faithfulness_plugin.benchmarks.note.trainer.streams import Streams
from faithfulness_plugin.benchmarks.note.trainer.weights import StackedWeights, as_transcoder, initial_weights
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.transcoders.base import NonFiniteError, TrainingTranscoder

CHECK_EVERY = 200
KEPT_BYTES = 2**25 - 2**13  # a little below 32 MiB, up to which glibc's threshold adapts
TRAINER = SAETrainerConfig(1, 1)  # for SAELens's defaults
Evaluate = Callable[[int, TrainingTranscoder[Any]], Mapping[str, float]]
"""(the member's number, the member as a transcoder) -> numbers by name."""


@dataclass(frozen=True)
class EnsembleResult:
    """The trained members."""

    members: tuple[ToyMember, ...]
    weights: tuple[StackedWeights, ...] = field(repr=False)
    """Each member's, without the leading dimension."""
    layer: Layer = field(repr=False)
    history: tuple[list[dict[str, int | float]], ...] = field(repr=False)
    """Each member's, as `TrainingResult.history`: one record every `log_every` steps, and one at the end."""

    def transcoder(self, i: int) -> TrainingTranscoder[Any]:
        """Build a member's transcoder: what `train_transcoder` would have returned.

        Args:
            i: the member's number.

        Returns:
            The transcoder, in `eval` mode and with its layer set.
        """
        return as_transcoder(self.members[i], self.weights[i], self.layer)


def train_ensemble(
    members: Sequence[ToyMember],
    layer: Layer,
    *,
    n_steps: int,
    lr: float = 3e-3,
    lr_warm_up_steps: int = 0,
    lr_decay_steps: int = 0,
    dead_feature_window: int = 1000,
    log_every: int | None = None,
    evaluate: Evaluate | None = None,
    checkpoint: Path | str | None = None,
    checkpoint_every: int | None = None,
    progress: bool | None = None,
) -> EnsembleResult:
    """Train all members together on one layer.

    By Adam, each member's gradient norm clipped at 1, on the objective of each architecture's training class, batched
    over members.

    A member's data, weights, probes and result depend on its own settings alone, not on its neighbours (with one thread
    to the bit). Members of the same seed see the same rows and start from the
    same weights, whatever else they differ in.

    Args:
        members: of any settings; those that differ only in numbers (seeds, coefficients, repeat fractions, densities)
            cost least, for they are computed together (see `Program`). One dtype and one device, from their configs.
        layer: what all of them learn to replace, row-wise [rows, d_in] -> [rows, d_out].
        n_steps, lr, lr_warm_up_steps, lr_decay_steps, dead_feature_window: as in `train_transcoder`.
        log_every: steps between records of the histories; by default the end alone is recorded.
        evaluate: numbers to add to each record, called with the member's number and the member as a transcoder.
        checkpoint: a file. If it exists, training resumes from it, and ends as if it had never stopped. It stays
            where it is, complete, at the end.
        checkpoint_every: steps between checkpoints.
        progress: show a bar; by default on a terminal only.

    Returns:
        Weights and histories, in the members' order.

    Raises:
        ValueError: no members; members of several dtypes or devices; arguments that do not fit; NaN or Inf
            (`NonFiniteError`, with the member); a checkpoint that is corrupt, or of other members or settings.
    """
    schedule = {"n_steps": n_steps, "lr": lr, "lr_warm_up_steps": lr_warm_up_steps, "lr_decay_steps": lr_decay_steps}
    _require_usable(members, checkpoint, checkpoint_every, log_every, **schedule)
    described = [{**asdict(m), "transcoder": {**m.transcoder.to_dict(), "metadata": None}} for m in members]
    settings = {
        "members": hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16],
        **schedule,
        "dead_feature_window": dead_feature_window,
        "log_every": log_every,
    }
    lrs = learning_rates(n_steps, lr, lr_warm_up_steps, lr_decay_steps)
    groups = _groups_of(members, layer, lrs, dead_feature_window)
    history: list[list[dict[str, int | float]]] = [[] for _ in members]
    done, path = 0, Path(checkpoint) if checkpoint is not None else None
    if path is not None and path.exists():
        state = load_checkpoint(path, settings)
        done, history = state["done"], state["history"]
        for group, group_state in zip(groups, state["groups"], strict=True):
            group.load_state_dict(group_state)
    hidden = None if progress is None else not progress
    with tqdm(total=n_steps, initial=done, desc=f"train {len(members)}", unit="step", disable=hidden) as bar:
        while done < n_steps:
            done += 1
            log = done == n_steps or (log_every is not None and done % log_every == 0)
            for group in groups:
                losses = group.step(done - 1, log)
                if log or done % CHECK_EVERY == 0:
                    group.check_finite(done)
                if log:
                    group.add_records(history, done, losses, evaluate)
            if path is not None and (done == n_steps or (checkpoint_every and done % checkpoint_every == 0)):
                for group in groups:
                    group.check_finite(done)  # a checkpoint must be worth resuming
                states = [group.state_dict() for group in groups]
                save_checkpoint(path, {"done": done, "groups": states, "history": history, "settings": settings})
            bar.update()
    weights = {i: group.member_weights(n) for group in groups for n, i in enumerate(group.numbers)}
    return EnsembleResult(tuple(members), tuple(weights[i] for i in range(len(members))), layer, tuple(history))


def _groups_of(
    members: Sequence[ToyMember], layer: Layer, lrs: list[float], dead_feature_window: int
) -> "list[_Group]":
    """Put members of one program together."""
    _keep_freed_buffers()
    alike: dict[Any, list[int]] = {}
    for i, member in enumerate(members):
        program = Program.of(member)
        alike.setdefault(program if program.aligned else i, []).append(i)
    return [
        _Group(numbers, [members[i] for i in numbers], layer, lrs, dead_feature_window) for numbers in alike.values()
    ]


def _keep_freed_buffers() -> None:
    """Let glibc keep freed buffers for the next step. It would return them to the system, which clears every page again
    (a fifth of the time of a step), but for sizes up to the largest that was freed before: this one."""
    torch.empty(KEPT_BYTES, dtype=torch.uint8)


def _require_usable(
    members: Sequence[ToyMember],
    checkpoint: Path | str | None,
    checkpoint_every: int | None,
    log_every: int | None,
    n_steps: int,
    lr: float,
    lr_warm_up_steps: int,
    lr_decay_steps: int,
) -> None:
    if not members:
        raise ValueError("there is no member to train: pass at least one")
    if n_steps < 1 or not 0 < lr < inf or min(lr_warm_up_steps, lr_decay_steps) < 0:
        raise ValueError("n_steps must be at least 1, lr positive and finite, warm-up and decay not negative")
    if lr_warm_up_steps + lr_decay_steps > n_steps:
        raise ValueError(f"n_steps={n_steps} must hold the learning rate's warm-up and decay")
    if min(log_every or 1, checkpoint_every or 1) < 1:
        raise ValueError("log_every and checkpoint_every count steps: at least 1")
    if checkpoint is None and checkpoint_every is not None:
        raise ValueError("checkpoint_every needs a file: pass checkpoint=")
    for name in ("dtype", "device"):
        if len(kinds := {getattr(m.transcoder, name) for m in members}) > 1:
            raise ValueError(f"the members have several kinds of {name} ({', '.join(sorted(kinds))}): train them apart")


class _Group:
    """The members of one program, and all that training them needs."""

    def __init__(
        self, numbers: list[int], members: list[ToyMember], layer: Layer, lrs: list[float], dead_feature_window: int
    ) -> None:
        self.numbers, self.members, self.layer, self.lrs = numbers, members, layer, lrs
        initial = initial_weights(members)
        self.packed = initial.packed().requires_grad_()
        self.weights = initial.unpacked(self.packed.detach())  # the same memory, without a graph
        self.streams = Streams(members, layer, self.packed.device, self.packed.dtype)
        self.objective = Objective(members, dead_feature_window)
        self.optimizer = torch.optim.Adam([self.packed], betas=(TRAINER.adam_beta1, TRAINER.adam_beta2), fused=True)

    def step(self, n: int, log: bool) -> dict[str, Tensor]:
        """Take step n, the first being 0.

        Args:
            n: the number of the step.
            log: whether the losses are wanted.

        Returns:
            Each member's losses by name, their sum and the L0, where they are wanted; else nothing.
        """
        if self.weights.threshold is not None:  # the last step of the optimizer may have left some below 0
            self.weights.threshold.clamp_(min=0)
        losses, acts = self.objective(self.weights.unpacked(self.packed), next(self.streams), n)
        total = torch.stack(list(losses.values())).sum(0)  # [n members]
        (gradient,) = torch.autograd.grad(total.sum(), self.packed)
        # each member's gradient norm is 1 at most, as by torch.nn.utils.clip_grad_norm_
        norms = gradient.square().sum(1, keepdim=True).sqrt()
        self.packed.grad = gradient.mul_((1 / (norms + 1e-6)).clamp_(max=1))
        self.optimizer.param_groups[0]["lr"] = self.lrs[n]
        self.optimizer.step()
        if not log:
            return {}
        l0 = (acts > 0).sum((1, 2)) / acts.shape[1]
        return {**{name: loss.detach() for name, loss in losses.items()}, "loss": total.detach(), "l0": l0}

    def check_finite(self, done: int) -> None:
        finite = torch.isfinite(self.packed).all(1)
        if not finite.all():
            n = int((~finite).nonzero()[0])
            raise NonFiniteError(
                f"step {done} or a little before: NaN or Inf in the weights of member {self.numbers[n]} (seed "
                f"{self.members[n].seed}); training stopped. Check its coefficients and the layer"
            )

    def member_weights(self, n: int) -> StackedWeights:
        everything = {**self.weights.present(), **self.objective.architecture.learned()}
        return StackedWeights(**{name: weight[n].clone() for name, weight in everything.items()})

    def transcoder(self, n: int) -> TrainingTranscoder[Any]:
        return as_transcoder(self.members[n], self.member_weights(n), self.layer)

    def add_records(
        self,
        history: list[list[dict[str, int | float]]],
        done: int,
        losses: dict[str, Tensor],
        evaluate: Evaluate | None,
    ) -> None:
        for n, i in enumerate(self.numbers):
            record = {"step": done, **{name: value[n].item() for name, value in losses.items()}}
            history[i].append(record | dict(evaluate(i, self.transcoder(n)) if evaluate else {}))

    def state_dict(self) -> dict[str, Any]:
        return {
            "packed": self.packed.detach(),
            "learned": self.objective.architecture.learned(),
            "since_fired": self.objective.architecture.since_fired,
            "optimizer": self.optimizer.state_dict(),
            "streams": self.streams.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.packed.detach().copy_(state["packed"])
        self.objective.architecture.since_fired.copy_(state["since_fired"])
        for name, value in self.objective.architecture.learned().items():
            value.copy_(state["learned"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.streams.load_state_dict(state["streams"])


def learning_rates(n_steps: int, lr: float, warm_up_steps: int, decay_steps: int) -> list[float]:
    """Compute the learning rate of each step, by SAELens's own scheduler as `train_transcoder` sets it up.

    Args:
        n_steps: optimizer steps.
        lr: the rate between warm-up and decay.
        warm_up_steps: steps over which it grows from 0.
        decay_steps: steps at the end over which it falls to 0.

    Returns:
        A rate for each step.
    """
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr)
    scheduler = get_lr_scheduler(
        TRAINER.lr_scheduler_name,
        lr=lr,
        optimizer=optimizer,
        warm_up_steps=warm_up_steps,
        decay_steps=decay_steps,
        training_steps=n_steps,
        lr_end=lr,
        num_cycles=TRAINER.n_restart_cycles,
    )
    rates = []
    for _ in range(n_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates
