"""What the results of both tracks share: trials of methods at tasks, swept over sparsity."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar


class SweepResult:
    """Trials by task, method, strength and seed, with the L0 at which they are compared: a base beside `Result`."""

    headline: ClassVar[str]
    """The score that is shown where a method does not reach the L0."""
    near_counts: ClassVar[bool] = False
    """Whether a transcoder within 5 % of the L0 stands beside the passage, and the one with the lowest FVU is read:
    where the L0 stays at the layers' own over several strengths, noise decides which of them passes it."""

    if TYPE_CHECKING:
        layer_l0: dict[str, float]
        trials: list[Any]

    @property
    @abstractmethod
    def seeds(self) -> Sequence[int]:
        """The seeds of every sweep."""

    @property
    @abstractmethod
    def score_names(self) -> list[str]:
        """The names of the scores."""

    def scored(self, task: str, method: str, seed: int | None = None) -> list[Any]:
        """Look up trials that have scores.

        Args:
            task: the task's name.
            method: the method's name.
            seed: one seed; None for all.

        Returns:
            The trials, by strength.
        """
        return [trial for trial in self._scored.get((task, method), []) if seed in (None, trial.seed)]

    @cached_property
    def _scored(self) -> dict[tuple[str, str], list[Any]]:
        found: dict[tuple[str, str], list[Any]] = {}
        for trial in sorted(self.trials, key=lambda t: t.strength):
            if trial.scores is not None:
                found.setdefault((trial.task, trial.method), []).append(trial)
        return found
