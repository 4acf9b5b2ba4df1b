"""A trainer's batches, between which a run is evaluated, saved, and interrupted."""

import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sae_lens.constants import TRAINER_STATE_FILENAME

from faithfulness_plugin.adapters.sae_lens.store import ROWS_FILENAME, ResumableStore, TextEndedError
from faithfulness_plugin.atomic import UNFINISHED, new_folder

SIGTERM_EXIT = 128 + signal.SIGTERM


class CheckpointedBatches(Iterator[Any]):
    """Stands before a trainer's data. SAELens's `fit` asks for a batch at the start of every step, when everything of
    the step before is done: here, and nowhere else, a run can be saved so that it resumes as if it had not been
    stopped.

    Args:
        trainer: SAELens's SAETrainer or MultiSAETrainer; its `data_provider` and `checkpoint_thresholds` are taken
            over.
        store: what the batches come from.
        folder: for checkpoints, one subfolder for each, named by the number of tokens; None for none.
        evaluate: called with the number of finished steps.
        evaluate_every: steps between two evaluations; the first is before the first step.
        note: called with every new checkpoint's folder, to add to SAELens's own files.
    """

    def __init__(
        self,
        trainer: Any,
        store: ResumableStore,
        *,
        folder: Path | None,
        evaluate: Callable[[int], None],
        evaluate_every: int | None,
        note: Callable[[Path], None],
    ) -> None:
        self.trainer, self.store, self.folder, self.note = trainer, store, folder, note
        for unfinished in [] if folder is None else folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(unfinished)  # of a run that was killed
        self.evaluate, self.evaluate_every = evaluate, evaluate_every
        self.source, trainer.data_provider = trainer.data_provider, self
        # SAELens would save before it has counted the step, and would save again after a resume
        begun = trainer.n_training_samples
        self.thresholds = [tokens for tokens in trainer.checkpoint_thresholds if tokens >= begun]
        trainer.checkpoint_thresholds = []
        self._signal: int | None = None
        self._evaluating = False

    def __next__(self) -> Any:
        trainer, done = self.trainer, self.trainer.n_training_steps
        if self._signal is None and self.evaluate_every and done % self.evaluate_every == 0:
            self._evaluate(done)
        self.end_if_interrupted()
        if self.thresholds and trainer.n_training_samples > self.thresholds[0]:
            self.save()
            self.thresholds = [tokens for tokens in self.thresholds if tokens >= trainer.n_training_samples]
        try:
            batch = next(self.source)
        except TextEndedError:
            self.save()  # to resume from with more text, or the same once more
            raise
        self.store.taken()
        return batch

    def end_if_interrupted(self) -> None:
        """Save the run and end it, if a signal arrived.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: after SIGTERM.
        """
        if self._signal is not None:
            self.save()
            raise KeyboardInterrupt if self._signal == signal.SIGINT else SystemExit(SIGTERM_EXIT)

    def _evaluate(self, done: int) -> None:
        """Evaluate; an interruption cuts it short, and nothing is lost."""
        self._evaluating = True
        try:
            self.evaluate(done)
        except KeyboardInterrupt:
            if self._signal is None:
                raise
        finally:
            self._evaluating = False

    def save(self) -> None:
        """Write a checkpoint. Earlier ones keep their weights; rows and optimizers, which only a resume needs, go."""
        if self.folder is None:
            return
        done = self.trainer.n_training_samples
        final = self.folder / str(done)
        if (final / ROWS_FILENAME).exists():
            return  # resumed from there, and not a step further
        with new_folder(final) as unfinished:
            self.trainer.save_checkpoint(checkpoint_name=unfinished.name)
            self.note(unfinished)
        for other in checkpoints(self.folder):
            if other != final:
                for only_to_resume in (other / ROWS_FILENAME, *other.rglob(TRAINER_STATE_FILENAME)):
                    only_to_resume.unlink(missing_ok=True)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM end the run before its next step, with a checkpoint; a second one ends it at once.

        Yields:
            Nothing; the signals' own handlers are restored afterwards.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # signals arrive elsewhere
            return

        def on_signal(number: int, frame: Any) -> None:
            del frame
            again, self._signal = self._signal is not None, number
            if again or self._evaluating:
                raise KeyboardInterrupt

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def checkpoints(folder: str | Path | None) -> list[Path]:
    """List the finished checkpoints in a folder.

    Args:
        folder: the run's checkpoint_path; None for none.

    Returns:
        Their folders, by tokens seen.
    """
    found = [] if folder is None else [path for path in Path(folder).glob("*") if path.name.isdigit() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))
