"""The evaluations of a run, one JSON object a line."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from faithfulness_plugin.atomic import write_text
from faithfulness_plugin.language_model.evaluator import TranscoderEvaluator

EVALUATIONS_FILENAME = "evaluations.jsonl"


class Evaluations:
    """Evaluates transcoders; keeps the entries in memory, in `evaluations.jsonl` in a folder, and in wandb if asked.

    A line has "name", "step", "tokens", and the evaluator's entries.

    Args:
        evaluator: evaluates them.
        folder: where the file stands; None for no file.
        wandb: log to wandb as well.
    """

    def __init__(self, evaluator: TranscoderEvaluator, folder: str | None, *, wandb: bool = False) -> None:
        self.evaluator, self.wandb = evaluator, wandb
        self.path = None if folder is None else Path(folder) / EVALUATIONS_FILENAME
        self.lines: list[dict[str, Any]] = []

    def begin(self, step: int) -> None:
        """Read the lines that a resumed run has already, if any.

        Args:
            step: the number of steps before the first one of now; later lines are dropped.
        """
        if self.path is None:
            return
        for line in self.path.read_text().splitlines() if step and self.path.exists() else []:
            with suppress(json.JSONDecodeError):
                self.lines.append(json.loads(line))
        self.lines = [line for line in self.lines if line["step"] < step]
        self._write()

    def add(self, step: int, tokens: int, transcoders: Mapping[str, Any]) -> None:
        """Evaluate transcoders after a step, once.

        Args:
            step: the number of finished steps.
            tokens: tokens that they were trained on by then.
            transcoders: by name.
        """
        if any(line["step"] == step for line in self.lines):
            return
        entries = self.evaluator.evaluate(transcoders)
        self.lines += [{"name": name, "step": step, "tokens": tokens, **entry} for name, entry in entries.items()]
        self._write()
        if self.wandb:
            import wandb

            wandb.log({f"eval/{name}/{k}": v for name, entry in entries.items() for k, v in entry.items()}, step=step)

    def last(self, name: str) -> dict[str, Any]:
        """Look up a transcoder's newest evaluation.

        Args:
            name: the transcoder's.

        Returns:
            Its line.
        """
        return next(line for line in reversed(self.lines) if line["name"] == name)

    def _write(self) -> None:
        if self.path is not None:
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in self.lines))
