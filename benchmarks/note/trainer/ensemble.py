"""Many toy transcoders trained at once, each as `train_transcoder` would have trained it alone."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY
from sae_lens.training.optim import get_lr_scheduler
from torch import Tensor
from tqdm.auto import tqdm

from faithfulness_plugin.benchmarks.note.trainer.member import ToyMember
from faithfulness_plugin.benchmarks.note.trainer.objective import Objective
from faithfulness_plugin.benchmarks.note.trainer.program import CoefficientSchedule, Program
from faithfulness_plugin.benchmarks.note.trainer.streams import Streams
from faithfulness_plugin.benchmarks.note.trainer.weights import StackedWeights
from faithfulness_plugin.differences import differences
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.transcoders.base import NonFiniteError, TrainingTranscoder
from faithfulness_plugin.transcoders.config import TrainingTranscoderConfig

CHECK_EVERY = 200
ALIGNED = 16
TRAINER = SAETrainerConfig(1, 1)  # for SAELens's defaults
Evaluate = Callable[[int, TrainingTranscoder[Any]], Mapping[str, float]]
"""(the member's number, the member as a transcoder) -> numbers by name."""


@dataclass(frozen=True)
class EnsembleResult:
    """What `train_ensemble` returns."""

    members: tuple[ToyMember, ...]
    weights: tuple[StackedWeights, ...] = field(repr=False)
    """Of each member, without the leading dimension."""
    layer: Layer = field(repr=False)
    history: tuple[list[dict[str, int | float]], ...] = field(repr=False)
    """Of each member, as `TrainingResult.history`: one record every `log_every` steps, and one at the end."""

    def transcoder(self, i: int) -> TrainingTranscoder[Any]:
        """Member i, in `eval` mode and with its layer set: what `train_transcoder` would have returned."""
        return _taken_out(self.members[i], self.weights[i], self.layer).eval()


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
    """Trains all members together on one layer: Adam, each member's gradient norm clipped at 1, the objective of each
    architecture's training class, batched over members.

    A member's data, weights, probes and result depend on its own settings alone, not on its neighbours (with one thread
    and batch_size * d_sae a multiple of 16 to the bit). Members of the same seed see the same rows and start from the
    same weights, whatever else they differ in.

    Args:
        members: of any settings; those that differ only in numbers (seeds, coefficients, repeat fractions, densities)
            cost least, for they are computed together. One dtype and one device, from their configs.
        layer: what all of them learn to replace, row-wise [rows, d_in] -> [rows, d_out].
        n_steps, lr, lr_warm_up_steps, lr_decay_steps, dead_feature_window: as in `train_transcoder`.
        log_every: steps between records of the histories; by default the end alone is recorded.
        evaluate: numbers to add to each record, called with the member's number and the member as a transcoder.
        checkpoint: a file. If it is there, training goes on from it, and ends as if it had never stopped. It stays
            where it is, complete, at the end.
        checkpoint_every: steps between checkpoints.
        progress: show a bar; by default on a terminal only.

    Raises:
        ValueError: no members; members of several dtypes or devices; arguments that do not fit; NaN or Inf
            (`NonFiniteError`, with the member); a checkpoint that is corrupt, or of other members or settings.
    """
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
    settings = {
        "members": hashlib.sha256(json.dumps([_description(m) for m in members]).encode()).hexdigest()[:16],
        "n_steps": n_steps,
        "lr": lr,
        "lr_warm_up_steps": lr_warm_up_steps,
        "lr_decay_steps": lr_decay_steps,
        "dead_feature_window": dead_feature_window,
        "log_every": log_every,
    }
    groups: dict[Program, list[int]] = {}
    for i, member in enumerate(members):
        groups.setdefault(Program.of(member), []).append(i)
    lrs = learning_rates(n_steps, lr, lr_warm_up_steps, lr_decay_steps)
    batches = [
        _Group(numbers, [members[i] for i in numbers], layer, lrs, dead_feature_window) for numbers in groups.values()
    ]
    history: list[list[dict[str, int | float]]] = [[] for _ in members]
    done, path = 0, Path(checkpoint) if checkpoint is not None else None
    if path is not None and path.exists():
        done, history = _load(path, batches, settings)
    hidden = None if progress is None else not progress
    with tqdm(total=n_steps, initial=done, desc=f"train {len(members)}", unit="step", disable=hidden) as bar:
        while done < n_steps:
            done += 1
            log = done == n_steps or (log_every is not None and done % log_every == 0)
            for group in batches:
                losses = group.step(done - 1, log)
                if log or done % CHECK_EVERY == 0:
                    group.check_finite(done)
                for n, i in enumerate(group.numbers if log else ()):
                    record = {"step": done, **{name: value[n].item() for name, value in losses.items()}}
                    history[i].append(record | dict(evaluate(i, group.transcoder(n)) if evaluate else {}))
            if path is not None and (done == n_steps or (checkpoint_every and done % checkpoint_every == 0)):
                for group in batches:
                    group.check_finite(done)  # a checkpoint is worth going on from
                _save(path, done, batches, history, settings)
            bar.update()
    weights = {i: group.member_weights(n) for group in batches for n, i in enumerate(group.numbers)}
    return EnsembleResult(tuple(members), tuple(weights[i] for i in range(len(members))), layer, tuple(history))


class _Group:
    """The members of one program, and all that training them needs."""

    def __init__(
        self, numbers: list[int], members: list[ToyMember], layer: Layer, lrs: list[float], dead_feature_window: int
    ) -> None:
        self.numbers, self.members, self.layer = numbers, members, layer
        initial = _initial_weights(members)
        self.weights, flat = _aligned(initial)
        for name, value in initial.there().items():
            self.weights.there()[name].copy_(value)
        self.gradients, flat_gradients = _aligned(initial)
        for weight, gradient in zip(flat, flat_gradients, strict=True):
            weight.grad = gradient
        device, dtype = self.weights.W_enc.device, self.weights.W_enc.dtype
        self.streams = Streams(members, layer, device, dtype)
        self.objective = Objective(members, dead_feature_window, device, dtype)
        self.coefficients = CoefficientSchedule(members, device, dtype)
        self.lrs = lrs
        self.optimizer = torch.optim.Adam(flat, betas=(TRAINER.adam_beta1, TRAINER.adam_beta2), fused=True)

    def step(self, n: int, log: bool) -> dict[str, Tensor]:
        """Step n, the first being 0."""
        losses = self.objective(self.weights, self.coefficients.at(n), next(self.streams), self.gradients, log)
        self._clip()
        for group in self.optimizer.param_groups:
            group["lr"] = self.lrs[n]
        self.optimizer.step()
        return losses

    def _clip(self) -> None:
        """Each member's gradient to a norm of 1 at most, as torch.nn.utils.clip_grad_norm_."""
        squares = [gradient.flatten(1).square().sum(1) for gradient in self.gradients.there().values()]
        factor = (1 / (torch.stack(squares).sum(0).sqrt() + 1e-6)).clamp_(max=1)
        for gradient in self.gradients.there().values():
            gradient.mul_(factor.view(-1, *(1,) * (gradient.ndim - 1)))

    def check_finite(self, done: int) -> None:
        finite = torch.stack(
            [torch.isfinite(weight).flatten(1).all(1) for weight in self.weights.there().values()]
        ).all(0)
        if not finite.all():
            n = int((~finite).nonzero()[0])
            raise NonFiniteError(
                f"step {done} or a little before: NaN or Inf in the weights of member {self.numbers[n]} (seed "
                f"{self.members[n].seed}); training stopped. Check its coefficients and the layer"
            )

    def member_weights(self, n: int) -> StackedWeights:
        everything = self.weights.there() | self.objective.gate.learned()
        return StackedWeights(**{name: weight[n].clone() for name, weight in everything.items()})

    def transcoder(self, n: int) -> TrainingTranscoder[Any]:
        return _taken_out(self.members[n], self.member_weights(n), self.layer).eval()

    def state_dict(self) -> dict[str, Any]:
        return {
            "weights": self.weights.there(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "streams": self.streams.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, weight in self.weights.there().items():
            weight.copy_(state["weights"][name])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.streams.load_state_dict(state["streams"])


def learning_rates(n_steps: int, lr: float, warm_up_steps: int, decay_steps: int) -> list[float]:
    """The learning rate of each step, by SAELens's own scheduler as `train_transcoder` sets it up."""
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


def _aligned(like: StackedWeights) -> tuple[StackedWeights, list[Tensor]]:
    """Zeros of these shapes, and the buffers that they are views of, [n, size rounded up to `ALIGNED`].

    Vector kernels treat the last few numbers of a buffer apart, and may round them in another way. With every member
    on a whole number of vectors, a member's arithmetic is the same wherever it stands, to the bit."""
    shapes = {name: weight.shape for name, weight in like.there().items()}
    flat = {
        name: like.W_enc.new_zeros(shape[0], -(-shape[1:].numel() // ALIGNED) * ALIGNED)
        for name, shape in shapes.items()
    }
    views = {name: flat[name][:, : shape[1:].numel()].view(shape) for name, shape in shapes.items()}
    return StackedWeights(**views), list(flat.values())


def _initial_weights(members: list[ToyMember]) -> StackedWeights:
    """As each member alone draws them; members that agree in seed and initialisation draw once."""
    drawn: dict[Any, TrainingTranscoder[Any]] = {}
    each = []
    for member in members:
        config = member.transcoder
        threshold = getattr(config, "jumprelu_init_threshold", None)
        key = (member.seed, config.d_in, config.d_sae, config.d_out, config.decoder_init_norm, threshold)
        if key not in drawn:
            with _own_randomness(config.device):
                torch.manual_seed(derived_seed(member.seed, "weights"))
                drawn[key] = training_transcoder(config)
        each.append(drawn[key])
    dtype, names = each[0].dtype, [name for name in StackedWeights._fields if name in dict(each[0].named_parameters())]
    return StackedWeights(
        **{name: torch.stack([t.get_parameter(name).detach().to(dtype) for t in each]).contiguous() for name in names}
    )


def _own_randomness(device: str) -> Any:
    """torch's global generators are afterwards as they were."""
    return torch.random.fork_rng(devices=[device] if torch.device(device).type == "cuda" else [])


def training_transcoder(config: TrainingTranscoderConfig) -> TrainingTranscoder[Any]:
    """A new one of the training class that is registered for the config, which it does not share."""
    return SAE_TRAINING_CLASS_REGISTRY[config.architecture()][0](deepcopy(config))  # pyright: ignore


def _taken_out(member: ToyMember, weights: StackedWeights, layer: Layer) -> TrainingTranscoder[Any]:
    with _own_randomness(member.transcoder.device):  # its weights are drawn, and then replaced
        transcoder = training_transcoder(member.transcoder).set_layer(layer)
    with torch.no_grad():
        for name, weight in weights.there().items():
            getattr(transcoder, name).copy_(weight)
    return transcoder


def _description(member: ToyMember) -> dict[str, Any]:
    """All that decides a member's result, JSON-safe."""
    return {**asdict(member), "transcoder": {**member.transcoder.to_dict(), "metadata": None}}


def _save(path: Path, done: int, groups: list[_Group], history: Any, settings: Mapping[str, Any]) -> None:
    """Into a file beside, which then takes the name: a kill or a full disk leaves the checkpoint before."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    state = {"done": done, "groups": [group.state_dict() for group in groups], "history": history, "settings": settings}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, unfinished)
        os.replace(unfinished, path)
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter on a full disk
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OSError(f"the checkpoint {path} cannot be written ({reason}): make room, and run it again") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _load(path: Path, groups: list[_Group], settings: Mapping[str, Any]) -> tuple[int, list[list[Any]]]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        there, done, history = state["settings"], state["done"], state["history"]
    except Exception as error:  # whatever a torn file makes the reader raise
        raise ValueError(f"{path} cannot be read ({type(error).__name__}), it may be corrupt: move it away") from error
    if changed := differences(there, settings):
        raise ValueError(f"{path} was made with other settings ({changed}): use those, or choose another file")
    for group, group_state in zip(groups, state["groups"], strict=True):
        group.load_state_dict(group_state)
    return done, history
