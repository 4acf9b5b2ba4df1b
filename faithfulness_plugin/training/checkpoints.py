"""Checkpoints of a training run: written whole, of one run's settings, and read back to where they were written."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol, runtime_checkable

import torch
from sae_lens.training.sae_trainer import SAETrainer
from safetensors import SafetensorError
from torch import Tensor, nn

from faithfulness_plugin.atomic import new_folder
from faithfulness_plugin.differences import differences
from faithfulness_plugin.messages import one_line
from faithfulness_plugin.training.processes import Processes
from faithfulness_plugin.transcoders.base import NonFiniteError

STATE_FILENAME = "faithful_state.pt"
ADAM = 3
"""Sizes of the weights in a checkpoint: themselves, and two moments of each."""
History = list[dict[str, int | float]]


@runtime_checkable
class Stateful(Protocol):
    """Data whose position can be saved, so that a resumed run sees the batches that it would have seen."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position.

        Returns:
            Tensors, numbers, strings, lists and dicts, by name.
        """
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go to a position.

        Args:
            state: what `state_dict` returned.
        """


def latest_checkpoint(folder: Path) -> Path | None:
    """Find the newest checkpoint in a folder: the `step_N` of the highest N.

    Args:
        folder: the folder of a run.

    Returns:
        The checkpoint; None where there is none.
    """
    steps = [path for path in folder.glob("step_*") if path.name[5:].isdigit()]
    return max(steps, key=lambda path: int(path.name[5:]), default=None)


@contextmanager
def _disk_explained(final: Path) -> Iterator[None]:
    """Raise an OSError with one line for whatever libraries raise where a checkpoint cannot be written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
    except RuntimeError as error:  # torch's, of a stream that it could not write
        if isinstance(error, NonFiniteError) or "writ" not in str(error):
            raise
        reason = one_line(error)
    else:
        return
    raise OSError(
        f"{final} could not be written ({reason}): make room on its disk; the checkpoint before it is as it was"
    )


class Checkpoints:
    """The folder in which a run keeps its newest checkpoint, `step_N`. The first of several processes writes.

    Args:
        folder: None for a run without checkpoints.
        settings: what a resumed run must share with the one that wrote the checkpoint, by name.
        processes: this one among those that train together.
    """

    def __init__(self, folder: Path | str | None, settings: dict[str, Any], processes: Processes) -> None:
        self.folder = None if folder is None else Path(folder)
        self.settings, self.processes = settings, processes
        self.last: Path | None = None
        """The newest checkpoint."""

    def open(self, resume: bool) -> None:
        """Find the newest checkpoint, and see now rather than after hours of training that one can be written.

        Args:
            resume: whether the run resumes the newest.

        Raises:
            ValueError: a folder that cannot be written, or that the processes do not share.
            FileExistsError: there is a checkpoint, and the run does not resume it.
        """
        folder, processes = self.folder, self.processes
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    self.last = latest_checkpoint(folder)
            except OSError as error:
                raise ValueError(
                    f"{folder} cannot hold checkpoints ({error.strerror}): choose another folder"
                ) from error
        found = self.last and self.last.name
        if found and not resume:
            raise FileExistsError(f"{folder} holds {found} already: pass resume=True to resume it, or another folder")
        if (first := processes.from_first(found)) != found:
            raise ValueError(
                f"process {processes.rank} finds {found} in {folder}, and the first one {first}: give all processes "
                "one folder for checkpoints, on a disk that they share"
            )

    def require_room(self, transcoder: nn.Module) -> None:
        """Refuse a disk without room for two checkpoints, the newest and the one before.

        Args:
            transcoder: the one that is trained.

        Raises:
            ValueError: a disk with too little room.
        """
        if self.folder is None or not self.processes.first:
            return
        weights = sum(weight.numel() * weight.element_size() for weight in transcoder.parameters())
        needed = 2 * ADAM * weights
        if (free := shutil.disk_usage(self.folder).free) < needed:
            raise ValueError(
                f"{self.folder}: checkpoints take {needed / 1e6:,.1f} MB, and its disk has {free / 1e6:,.1f} MB free: "
                "make room, or choose another folder"
            )

    def save(self, trainer: SAETrainer[Any, Any], inputs: Iterator[Tensor], history: History) -> None:
        """Write a checkpoint whole, and then remove the one before.

        Args:
            trainer: SAELens's trainer, with the transcoder, its optimizer and the step.
            inputs: the data; their position is saved where they are `Stateful`.
            history: the records so far.

        Raises:
            NonFiniteError: the weights contain NaN or Inf; the checkpoint before stays.
            ValueError: inputs whose state cannot be read back.
        """
        if self.folder is None:
            return
        final = self.folder / f"step_{trainer.n_training_steps}"
        if self.processes.first:
            before = latest_checkpoint(self.folder)
            self._write(final, trainer, inputs, history)
            if before is not None and before != final:
                shutil.rmtree(before)
        self.last = final
        self.processes.wait()

    def _write(self, final: Path, trainer: SAETrainer[Any, Any], inputs: Iterator[Tensor], history: History) -> None:
        if not all(torch.isfinite(weight).all() for weight in trainer.sae.parameters()):
            raise NonFiniteError(
                f"step {trainer.n_training_steps}: the weights contain NaN or Inf; the last checkpoint is as it was"
            )
        state = {
            "inputs": inputs.state_dict() if isinstance(inputs, Stateful) else None,
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "history": history,
            "settings": self.settings,
        }
        with _disk_explained(final), new_folder(final) as unfinished:
            trainer.save_checkpoint(unfinished.name, base_path=final.parent)
            torch.save(state, unfinished / STATE_FILENAME)
            try:
                torch.load(unfinished / STATE_FILENAME, weights_only=True)
            except UnpicklingError as error:  # better now than at the resume
                raise ValueError(
                    "the inputs' state_dict cannot be read back safely: make it of tensors, numbers, strings, lists "
                    "and dicts"
                ) from error

    def load(self, trainer: SAETrainer[Any, Any], inputs: Iterator[Tensor]) -> History:
        """Put trainer and inputs where the newest checkpoint was written.

        Args:
            trainer: SAELens's trainer, of the same settings.
            inputs: the data, made with the same settings.

        Returns:
            The history up to there; empty without a checkpoint.

        Raises:
            ValueError: a corrupt checkpoint, one of other settings, inputs whose position is not known.
        """
        path = self.last
        if path is None:
            return []
        try:
            state = torch.load(path / STATE_FILENAME, map_location="cpu", weights_only=True)
            settings, history = state["settings"], state["history"]
        except Exception as error:  # whatever a torn file makes the readers raise
            raise ValueError(_corrupt(path, error)) from error
        if changed := differences(settings, self.settings):
            raise ValueError(f"{path} was made with other settings ({changed}): use those, or choose another folder")
        if not isinstance(inputs, Stateful) or state["inputs"] is None:
            raise ValueError(
                "the inputs' position is not known, so a resumed run would see other batches than the uninterrupted "
                "one: give them state_dict and load_state_dict, or train without resume"
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
