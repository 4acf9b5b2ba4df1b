"""train_transcoder: SAELens's SAETrainer with a layer, a progress bar, an evaluator and checkpoints that resume."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.sae import TrainStepOutput
from sae_lens.training.sae_trainer import Evaluator, SAETrainer
from torch import Tensor
from tqdm.auto import tqdm
from typing_extensions import override

from faithfulness_plugin.display import NotebookTable, in_notebook, line
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.jacobian.packed_rows import PackedRows
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.require import number, whole
from faithfulness_plugin.training.batches import Inputs, endless
from faithfulness_plugin.training.checkpoints import Checkpoints, History
from faithfulness_plugin.training.distributed_trainer import DistributedTrainer
from faithfulness_plugin.training.fused import fuse
from faithfulness_plugin.training.processes import Processes
from faithfulness_plugin.transcoders.base import TrainingTranscoder
from faithfulness_plugin.transcoders.cross_layer import CrossLayerTrainingTranscoder

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TrainingResult(NotebookTable):
    """The result of `train_transcoder`. Notebooks show its history as a table."""

    transcoder: TrainingTranscoder[Any]
    history: list[dict[str, int | float]] = field(repr=False)
    """One record every `log_every` steps: "step", "loss", each named loss, "l0", and the evaluator's entries."""
    checkpoint: Path | None
    """The last checkpoint's folder."""

    @property
    def loss(self) -> float:
        """The loss of the last record; `history[-1]` has its parts."""
        return self.history[-1]["loss"]

    def __repr__(self) -> str:
        last = {name: value for name, value in self.history[-1].items() if name != "step"}
        step, where = self.history[-1]["step"], {"checkpoint": self.checkpoint} if self.checkpoint else {}
        return line("TrainingResult", {"transcoder": self.transcoder, "steps": step, **last, **where})

    @override
    def to_frame(self) -> "pd.DataFrame":
        """Return the history, a row per record, the last one first."""
        import pandas as pd

        return pd.DataFrame(self.history[::-1])


def train_transcoder(
    transcoder: TrainingTranscoder[Any],
    layer: Layer | PackedRows | Sequence[Layer],
    inputs: Inputs,
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
    """Train a transcoder on a layer with SAELens's SAETrainer (Adam, gradient norm clipped at 1).

    In several processes that torch.distributed has joined, each calls this with `StoredRows` of its own share: they
    train one transcoder as one process would on the whole batches (`DistributedTrainer`). The first one writes
    checkpoints, which any number of processes can resume.

    Args:
        transcoder: trained in place, on its own device; returned in `eval` mode, as the function that it exports.
        layer: what it learns to replace, row-wise [batch, d_in] -> [batch, d_out]; or the `layer` of stored rows; for a
            cross-layer transcoder a list of layers, or a `LayerChain`.
        inputs: rows [n, d_in], of which shuffled batches are cut; or batches [batch, d_in]: an endless iterator, or a
            DataLoader or list, which is iterated again at its end; of a cross-layer transcoder rows
            [n, layers * d_in] or stacks [n, layers, d_in]. Checkpoints hold the position of rows, and of
            iterators with state_dict and load_state_dict, as `AbsInputs` has. `StoredRows` bring the layer's responses
            with them.
        n_steps: optimizer steps in total, those before a resume included.
        lr: Adam's learning rate, between its growth and its decay.
        lr_warm_up_steps: steps of linear growth, the first ones.
        lr_decay_steps: steps of linear decay to 0, the last ones.
        batch_size: rows per batch, of all processes together; by default `inputs.batch_size`, which a DataLoader has.
        dead_feature_window: steps without firing after which a feature counts as dead, for the losses that revive them.
        log_every: steps between records of the history.
        evaluator: SAELens's (transcoder, inputs, activation_scaler) -> dict; called every `evaluate_every` steps.
        evaluate_every: steps between calls of the evaluator; needed with one.
        checkpoint: folder for checkpoints, one subfolder `step_N`; only the newest is kept, and a kill while it is
            written leaves the one before.
        checkpoint_every: steps between checkpoints; the end is always one.
        resume: resume the newest checkpoint in that folder, if there is one, with the same settings. The result
            is the uninterrupted run's, for which the inputs need state_dict and load_state_dict.
        progress: show a bar; by default on a terminal and in a notebook.

    Returns:
        The transcoder, the history of losses, and the last checkpoint.

    Raises:
        ValueError: arguments that do not fit; inputs that several processes do not share; a shape that does not; NaN or
            Inf (`NonFiniteError`, with the step); inputs that end; a checkpoint that is corrupt, or was made with other
            settings.
        FileExistsError: checkpoints are there already and `resume` is False.
    """
    _require_transcoder(transcoder)
    batch_size = getattr(inputs, "batch_size", None) if batch_size is None else whole("batch_size", batch_size)
    inputs = endless(_side_by_side(transcoder, inputs), batch_size)
    if batch_size is None:
        raise ValueError("the inputs have no batch_size: pass batch_size=")
    if (evaluator is None) != (evaluate_every is None):
        raise ValueError("evaluator and evaluate_every go together: pass both or neither")
    if checkpoint is None and (resume or checkpoint_every):
        raise ValueError("resume and checkpoint_every need a folder: pass checkpoint=")
    _require_steps(log_every=log_every, evaluate_every=evaluate_every, checkpoint_every=checkpoint_every)
    config = _trainer_config(n_steps, batch_size, lr, lr_warm_up_steps, lr_decay_steps, dead_feature_window)
    processes = Processes.here()
    _check_inputs(inputs, processes)
    checkpoints = Checkpoints(checkpoint, _settings(transcoder, config), processes)
    checkpoints.open(resume)
    checkpoints.require_room(transcoder)
    config.device = str(transcoder.device)
    trainer = (DistributedTrainer if processes.several else SAETrainer)(config, transcoder.set_layer(layer), inputs)  # pyright: ignore
    intervals = (log_every, evaluate_every or n_steps, checkpoint_every or n_steps)
    history = _train(trainer, checkpoints, evaluator, intervals, progress)
    return TrainingResult(transcoder, history, checkpoints.last)


def _trainer_config(
    n_steps: int, batch_size: int, lr: float, lr_warm_up_steps: int, lr_decay_steps: int, dead_feature_window: int
) -> SAETrainerConfig:
    n_steps, lr_warm_up_steps = whole("n_steps", n_steps), whole("lr_warm_up_steps", lr_warm_up_steps)
    lr_decay_steps, lr = whole("lr_decay_steps", lr_decay_steps), number("lr", lr)
    dead_feature_window = whole("dead_feature_window", dead_feature_window)
    if batch_size < 1 or min(lr_warm_up_steps, lr_decay_steps) < 0 or not 0 < lr < inf:
        raise ValueError("batch_size must be at least 1, lr positive and finite, warm-up and decay not negative")
    if n_steps < 1 or lr_warm_up_steps + lr_decay_steps > n_steps:
        raise ValueError(f"n_steps={n_steps} must be at least 1 and hold the learning rate's warm-up and decay")
    if dead_feature_window < 1:
        raise ValueError(f"dead_feature_window={dead_feature_window} counts steps: at least 1")
    return SAETrainerConfig(
        total_training_samples=n_steps * batch_size,
        train_batch_size_samples=batch_size,
        lr=lr,
        lr_end=lr,
        lr_warm_up_steps=lr_warm_up_steps,
        lr_decay_steps=lr_decay_steps,
        dead_feature_window=dead_feature_window,
        logger=LoggingConfig(log_to_wandb=False),
    )


def _settings(transcoder: TrainingTranscoder[Any], config: SAETrainerConfig) -> dict[str, Any]:
    """Collect by name what a resumed run must share with the one that it resumes."""
    scheduled = ("lr", "lr_warm_up_steps", "lr_decay_steps", "dead_feature_window")
    return {
        **{k: v for k, v in transcoder.cfg.to_dict().items() if k not in ("metadata", "device")},
        "device": transcoder.device.type,
        "n_steps": config.total_training_samples // config.train_batch_size_samples,
        "batch_size": config.train_batch_size_samples,
        **{name: getattr(config, name) for name in scheduled},
    }


def _require_transcoder(transcoder: Any) -> None:
    if not isinstance(transcoder, TrainingTranscoder):
        called = transcoder.__name__ if isinstance(transcoder, type) else f"of type {type(transcoder).__name__}"
        raise UsageError(
            f"the transcoder is {called}, which has no layer to learn from: pass a transcoder of this package, such as "
            "StandardTrainingTranscoder(StandardTrainingTranscoderConfig(d_in=..., d_sae=...))"
        )


def _side_by_side(transcoder: TrainingTranscoder[Any], inputs: Inputs) -> Inputs:
    """Put the layers of a stack side by side, so that batches are cut of rows; anything else stays as it is."""
    if isinstance(transcoder, CrossLayerTrainingTranscoder) and isinstance(inputs, Tensor | np.ndarray):
        return transcoder.rows_of_stack(torch.as_tensor(inputs))
    return inputs


def _require_steps(**intervals: int | None) -> None:
    for name, steps in intervals.items():
        if steps is not None and whole(name, steps) < 1:
            raise ValueError(f"{name}={steps} counts steps: at least 1")


def _check_inputs(inputs: Any, processes: Processes) -> None:
    if processes.several and getattr(inputs, "processes", 1) != processes.size:
        raise ValueError(
            f"{processes.size} processes train together, and the inputs are not shared out among them: "
            "pass StoredRows made with this rank and number of processes"
        )


def _train(
    trainer: SAETrainer[Any, Any],
    checkpoints: Checkpoints,
    evaluator: Evaluator[Any] | None,
    every: tuple[int, int, int],
    progress: bool | None,
) -> History:
    """Take the steps that are left. `every`: steps between records, evaluations and checkpoints."""
    log_every, evaluate_every, checkpoint_every = every
    processes, inputs, transcoder = checkpoints.processes, trainer.data_provider, trainer.sae
    history, batch_size = checkpoints.load(trainer, inputs), trainer.cfg.train_batch_size_samples
    fuse(trainer.optimizer)  # after loading: a checkpoint of an earlier version says otherwise
    n_steps = trainer.cfg.total_training_samples // batch_size
    # tqdm: None hides the bar where there is no terminal, and so in a notebook
    hidden = (False if in_notebook() else None) if progress is None else not progress
    hidden = hidden if processes.first else True
    try:
        with tqdm(total=n_steps, initial=trainer.n_training_steps, desc="train", unit="step", disable=hidden) as bar:
            while (step := trainer.n_training_steps) < n_steps:
                trainer.maybe_reset_sparsity()
                output = trainer.step(_next(inputs, step, batch_size // processes.size))
                trainer.n_training_steps = done = step + 1
                record = _record(done, output, processes) if done % log_every == 0 or done == n_steps else None
                if evaluator and done % evaluate_every == 0:
                    entries = _evaluate(evaluator, trainer) if processes.first else {}
                    record = (record or {"step": done}) | processes.from_first(entries)
                if record is not None:
                    history.append(record)
                    bar.set_postfix({k: f"{v:.4g}" for k, v in record.items() if k != "step"}, refresh=False)
                if done % checkpoint_every == 0 or done == n_steps:
                    checkpoints.save(trainer, inputs, history)
                bar.update()
    finally:
        transcoder.matching.across = None  # of this run's processes
    trainer.set_final_sae_metadata()
    transcoder.eval()
    return history


def _next(inputs: Iterator[Tensor], step: int, batch_size: int) -> Tensor:
    batch = next(inputs, None)
    if batch is None:
        raise ValueError(f"the inputs ended after {step} batches of this run: pass an endless iterator")
    if len(batch) != batch_size:
        raise ValueError(
            f"step {step}: the batch has {len(batch)} rows, not batch_size={batch_size}: pass its real size, "
            "or drop_last=True to a DataLoader"
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
