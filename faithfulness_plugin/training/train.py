"""train_transcoder: SAELens's SAETrainer with a layer, a progress bar, an evaluator and checkpoints that resume."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol, runtime_checkable

import torch
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.sae import TrainStepOutput
from sae_lens.training.sae_trainer import Evaluator, SAETrainer
from torch import Tensor
from tqdm.auto import tqdm

from faithfulness_plugin.differences import differences
from faithfulness_plugin.jacobian.packed_rows import PackedRows
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.training.distributed_trainer import DistributedTrainer
from faithfulness_plugin.training.processes import Processes
from faithfulness_plugin.transcoders.base import NonFiniteError, TrainingTranscoder

STATE_FILENAME = "faithful_state.pt"


@runtime_checkable
class Stateful(Protocol):
    """Data whose position can be saved, so that a resumed run sees the batches that it would have seen."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


@dataclass(frozen=True)
class TrainingResult:
    """What `train_transcoder` returns."""

    transcoder: TrainingTranscoder[Any]
    history: list[dict[str, int | float]] = field(repr=False)
    """One record every `log_every` steps: "step", "loss", each named loss, "l0", and the evaluator's entries."""
    checkpoint: Path | None
    """The last checkpoint's folder."""


def train_transcoder(
    transcoder: TrainingTranscoder[Any],
    layer: Layer | PackedRows,
    inputs: Iterator[Tensor],
    *,
    n_steps: int,
    lr: float = 3e-3,
    lr_warm_up_steps: int = 0,
    lr_decay_steps: int = 0,
    batch_size: int | None = None,
    dead_feature_window: int = 1000,
    log_every: int = 100,
    evaluator: Evaluator[Any] | None = None,
    evaluate_every: int | None = None,
    checkpoint: Path | str | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> TrainingResult:
    """Trains a transcoder on a layer with SAELens's SAETrainer (Adam, gradient norm clipped at 1).

    In several processes that torch.distributed has joined, each calls this with `StoredRows` of its own share: they
    train one transcoder as one process would on the whole batches (`DistributedTrainer`). The first one writes
    checkpoints, which any number of processes can go on from.

    Args:
        transcoder: trained in place, on its own device; returned in `eval` mode, as the function that it exports.
        layer: what it learns to replace, row-wise [batch, d_in] -> [batch, d_out]; or the `layer` of stored rows.
        inputs: endless batches [batch, d_in]. Where it has state_dict and load_state_dict, as `AbsInputs` does,
            checkpoints hold its position. `StoredRows` bring the layer's answers with them.
        n_steps: optimizer steps in total, those before a resume included.
        lr: Adam's learning rate, between `lr_warm_up_steps` of linear growth and `lr_decay_steps` of linear decay.
        batch_size: rows per batch, of all processes together; by default `inputs.batch_size`.
        dead_feature_window: steps without firing after which a feature counts as dead, for the losses that revive them.
        log_every: steps between records of the history.
        evaluator: SAELens's (transcoder, inputs, activation_scaler) -> dict; called every `evaluate_every` steps.
        checkpoint: folder for checkpoints, one subfolder `step_N`; only the newest is kept, and a kill while it is
            written leaves the one before.
        checkpoint_every: steps between checkpoints; the end is always one.
        resume: go on from the newest checkpoint in that folder, if there is one, with the same settings. The result
            is the uninterrupted run's, for which the inputs need state_dict and load_state_dict.
        progress: show a bar; by default on a terminal only.

    Raises:
        ValueError: arguments that do not fit; inputs that several processes do not share; a shape that does not; NaN or
            Inf (`NonFiniteError`, with the step); inputs that end; a checkpoint that is corrupt, or was made with other
            settings.
        FileExistsError: checkpoints are there already and `resume` is False.
    """
    batch_size = getattr(inputs, "batch_size", None) if batch_size is None else batch_size
    if batch_size is None:
        raise ValueError("the inputs do not tell their batch size: pass batch_size=")
    if batch_size < 1 or min(lr_warm_up_steps, lr_decay_steps) < 0 or not 0 < lr < inf:
        raise ValueError("batch_size must be at least 1, lr positive and finite, warm-up and decay not negative")
    if n_steps < 1 or lr_warm_up_steps + lr_decay_steps > n_steps:
        raise ValueError(f"n_steps={n_steps} must be at least 1 and hold the learning rate's warm-up and decay")
    if dead_feature_window < 1:
        raise ValueError(f"dead_feature_window={dead_feature_window} counts steps: at least 1")
    if log_every < 1 or (evaluate_every or 1) < 1 or (checkpoint_every or 1) < 1:
        raise ValueError("log_every, evaluate_every and checkpoint_every count steps: at least 1")
    if (evaluator is None) != (evaluate_every is None):
        raise ValueError("an evaluator needs evaluate_every, and the other way round: pass both or neither")
    if checkpoint is None and (resume or checkpoint_every):
        raise ValueError("resume and checkpoint_every need a folder: pass checkpoint=")
    if not hasattr(inputs, "__next__"):
        raise ValueError(
            f"the inputs must be an endless iterator of batches, not {type(inputs).__name__}: pass iter(...)"
        )
    folder = _writable(Path(checkpoint)) if checkpoint is not None else None
    last = latest_checkpoint(folder) if folder else None
    if last is not None and not resume:
        raise FileExistsError(f"{folder} holds {last.name} already: pass resume=True to go on, or another folder")
    processes = Processes.here()
    if processes.several and getattr(inputs, "processes", 1) != processes.size:
        raise ValueError(
            f"{processes.size} processes train together, and the inputs do not share themselves out among so many: "
            "pass StoredRows made with this rank and number of processes"
        )
    there = processes.from_first(last and last.name)
    if there != (last and last.name):
        raise ValueError(
            f"process {processes.rank} finds {last and last.name} in {folder}, and the first one {there}: give all "
            "processes one folder for checkpoints, on a disk that they share"
        )
    settings = {
        **{k: v for k, v in transcoder.cfg.to_dict().items() if k not in ("metadata", "device")},
        "device": transcoder.device.type,
        "n_steps": n_steps,
        "batch_size": batch_size,
        "lr": lr,
        "lr_warm_up_steps": lr_warm_up_steps,
        "lr_decay_steps": lr_decay_steps,
        "dead_feature_window": dead_feature_window,
    }

    transcoder.set_layer(layer)
    trainer_config = SAETrainerConfig(
        total_training_samples=n_steps * batch_size,
        train_batch_size_samples=batch_size,
        lr=lr,
        lr_end=lr,
        lr_warm_up_steps=lr_warm_up_steps,
        lr_decay_steps=lr_decay_steps,
        dead_feature_window=dead_feature_window,
        device=str(transcoder.device),
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = (DistributedTrainer if processes.several else SAETrainer)(trainer_config, transcoder, inputs)
    history: list[dict[str, int | float]] = []
    if last is not None:
        history = _load(last, trainer, inputs, settings)

    hidden = None if progress is None else not progress  # tqdm: None hides the bar where there is no terminal
    hidden = hidden if processes.first else True
    with (
        ExitStack() as after,
        tqdm(total=n_steps, initial=trainer.n_training_steps, desc="train", unit="step", disable=hidden) as bar,
    ):
        after.callback(setattr, transcoder.matching, "across", None)  # of this run's processes
        while (step := trainer.n_training_steps) < n_steps:
            trainer.maybe_reset_sparsity()
            output = trainer.step(_next(inputs, step, batch_size // processes.size))
            trainer.n_training_steps = done = step + 1
            record = _record(done, output, processes) if done % log_every == 0 or done == n_steps else None
            if evaluator and evaluate_every and done % evaluate_every == 0:
                entries = _evaluate(evaluator, trainer) if processes.first else {}
                record = (record or {"step": done}) | processes.from_first(entries)
            if record is not None:
                history.append(record)
                bar.set_postfix({k: f"{v:.4g}" for k, v in record.items() if k != "step"}, refresh=False)
            if folder and (done == n_steps or (checkpoint_every and done % checkpoint_every == 0)):
                last = _save(folder, trainer, inputs, history, settings, processes)
            bar.update()
    trainer.set_final_sae_metadata()
    transcoder.eval()
    return TrainingResult(transcoder, history, last)


def latest_checkpoint(folder: Path) -> Path | None:
    """The `step_N` of the highest N, or None where there is none."""
    steps = [path for path in folder.glob("step_*") if path.name[5:].isdigit()]
    return max(steps, key=lambda path: int(path.name[5:]), default=None)


def _writable(folder: Path) -> Path:
    """The folder, made where there is none. Raises ValueError now rather than after hours of training."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise ValueError(f"{folder} cannot hold checkpoints ({error.strerror}): choose another folder") from error


def _next(inputs: Iterator[Tensor], step: int, batch_size: int) -> Tensor:
    batch = next(inputs, None)
    if batch is None:
        raise ValueError(f"the inputs ended after {step} batches of this run: pass an endless iterator")
    if len(batch) != batch_size:
        raise ValueError(
            f"step {step}: the batch has {len(batch)} rows, not batch_size={batch_size}: pass its real size"
        )
    return batch


@torch.no_grad()
def _record(done: int, output: TrainStepOutput, processes: Processes) -> dict[str, int | float]:
    l0 = output.feature_acts.bool().double().sum(-1).to_dense().mean()  # a sparse matrix for TopK kinds
    entries = {"loss": output.loss, **output.losses, "l0": l0}
    means = processes.mean(torch.stack([value.detach().double() for value in entries.values()]))
    return {"step": done, **dict(zip(entries, means.tolist(), strict=True))}


@torch.no_grad()
def _evaluate(evaluator: Evaluator[Any], trainer: SAETrainer[Any, Any]) -> dict[str, int | float]:
    trainer.sae.eval()
    try:
        entries = evaluator(trainer.sae, trainer.data_provider, trainer.activation_scaler)
    finally:
        trainer.sae.train()
    numbers = {k: v.item() if hasattr(v, "item") else v for k, v in entries.items()}
    for name, value in numbers.items():
        if not isinstance(value, int | float):
            raise ValueError(f"the evaluator's {name!r} is a {type(value).__name__}: return one number per name")
    return numbers


def _save(
    folder: Path,
    trainer: SAETrainer[Any, Any],
    inputs: Any,
    history: list[dict[str, int | float]],
    settings: dict[str, Any],
    processes: Processes,
) -> Path:
    """Written beside its final name and then renamed, by the first process; the one before goes last."""
    if not processes.first:
        processes.wait()
        return folder / f"step_{trainer.n_training_steps}"
    done = trainer.n_training_steps
    if not all(torch.isfinite(weight).all() for weight in trainer.sae.parameters()):
        raise NonFiniteError(f"step {done}: the weights contain NaN or Inf; the last checkpoint is as it was")
    before = latest_checkpoint(folder)
    unfinished, final = folder / f"unfinished_{done}", folder / f"step_{done}"
    shutil.rmtree(unfinished, ignore_errors=True)
    trainer.save_checkpoint(unfinished.name, base_path=folder)
    state = {
        "inputs": inputs.state_dict() if isinstance(inputs, Stateful) else None,
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "history": history,
        "settings": settings,
    }
    torch.save(state, unfinished / STATE_FILENAME)
    try:
        torch.load(unfinished / STATE_FILENAME, weights_only=True)
    except UnpicklingError as error:  # better now than at the resume
        raise ValueError(
            "the inputs' state_dict cannot be read back safely: make it of tensors, numbers, strings, lists and dicts"
        ) from error
    unfinished.rename(final)
    if before is not None and before != final:
        shutil.rmtree(before)
    processes.wait()
    return final


def _load(
    path: Path, trainer: SAETrainer[Any, Any], inputs: Any, settings: dict[str, Any]
) -> list[dict[str, int | float]]:
    try:
        state = torch.load(path / STATE_FILENAME, map_location="cpu", weights_only=True)
        there, history = state["settings"], state["history"]
    except Exception as error:  # whatever a torn file makes the readers raise
        raise ValueError(_corrupt(path, error)) from error
    if changed := differences(there, settings):
        raise ValueError(f"{path} was made with other settings ({changed}): use those, or choose another folder")
    if not isinstance(inputs, Stateful) or state["inputs"] is None:
        raise ValueError(
            "the inputs' position is not known, so a resumed run would see other batches than the uninterrupted one: "
            "give them state_dict and load_state_dict, or train without resume"
        )
    inputs.load_state_dict(state["inputs"])
    try:
        trainer.sae.load_weights_from_checkpoint(path)
        trainer.load_trainer_state(path)
    except Exception as error:
        raise ValueError(_corrupt(path, error)) from error
    torch.set_rng_state(state["torch_rng"])
    if state["cuda_rng"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    return history


def _corrupt(path: Path, error: Exception) -> str:
    return f"{path} cannot be read ({type(error).__name__}), it may be corrupt: choose another folder, or move it away"
