"""How long commands and imports take to answer, beside `import torch`."""

import subprocess
import sys
import tempfile
from functools import partial
from typing import Literal

import numpy as np
from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.benchmarks.timing.configs import StartUpConfig
from faithfulness_plugin.benchmarks.timing.harness import Measurement, MeasurementResult, Note, Part
from faithfulness_plugin.results.markdown import markdown_table
from faithfulness_plugin.results.schema import Record
from faithfulness_plugin.results.timing import in_turn, seconds

PASS, TORCH = 'python -c "pass"', 'python -c "import torch"'
IMPORTS = ("from faithfulness_plugin import JacobianMatching", "import sae_lens")
BENCH = ("run", "list", "compare", "card", "rerun", "leaderboard")
COMMANDS = ("reproduce", "train", "measure", "hooks", "inspect", "bench", "scan", "report", "examples", "experiment")
HELP = ("", *COMMANDS, *(f"bench {name}" for name in BENCH))
REFUSALS = (
    "train missing.yaml",
    "train --tokens 0",
    "train --device tpu",
    "reproduce --density 1.5",
    "reproduce --jobs 0",
    "reproduce --d-in many",
    "scan --vary jitter",
    "measure missing",
    "inspect missing",
    "hooks missing",
    "bench run --size huge",
    "bench comapre",
)


class Answer(Record):
    """What a command or an import takes from its start to its end."""

    what: str
    seconds: float = Field(description="median over rounds, less that of `python -c pass`")


class StartUpResult(MeasurementResult):
    """All commands, or none."""

    benchmark: Literal["start-up"] = "start-up"
    schema_version: Literal[1] = 1
    config: StartUpConfig
    processor: str
    answers: tuple[Answer, ...] | None = None


class StartUp(Measurement[StartUpConfig, StartUpResult]):
    """One part: every command and import in turn, in some minutes."""

    config_class, result_class = StartUpConfig, StartUpResult

    @override
    def plan(self, config: StartUpConfig) -> list[Part]:
        return [Part("all of it", "answers", partial(measure, config))]

    @override
    def tables(self, result: StartUpResult) -> str:
        answers = {of.what: of.seconds for of in result.answers or []}
        rows = [[f"`{what}`", f"{took:.2f}", f"{took / answers[TORCH]:.2f}"] for what, took in answers.items()]
        caption = (
            f"Medians of {result.config.rounds} rounds, less `python -c pass`, on {result.processor}, "
            f"torch {result.environment.packages['torch']}."
        )
        return f"{markdown_table(['', 'seconds', '/ import torch'], rows)}\n\n{caption}\n"


def measure(config: StartUpConfig, note: Note) -> tuple[Answer, ...]:
    """Time every command and import in turn, each in a new process.

    Args:
        config: rounds and their order.
        note: receives a line about what is being done.

    Returns:
        Medians over rounds, less that of `python -c pass`.
    """
    python = [sys.executable, "-W", "ignore"]
    command = [*python, "-m", "faithfulness_plugin"]
    processes = {
        PASS: [*python, "-c", "pass"],
        TORCH: [*python, "-c", "import torch"],
        **{code: [*python, "-c", code] for code in IMPORTS},
        **{f"faithfulness {name} --help".replace("  ", " "): [*command, *name.split(), "--help"] for name in HELP},
        **{f"faithfulness {arguments}": [*command, *arguments.split()] for arguments in REFUSALS},
    }
    with tempfile.TemporaryDirectory() as folder:

        def answer(arguments: list[str], code: int) -> None:
            done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True)
            if done.returncode != code:
                raise RuntimeError(f"{' '.join(arguments)} exits with {done.returncode}: {done.stderr.strip()[-200:]}")

        codes = {what: 2 * (what.removeprefix("faithfulness ") in REFUSALS) for what in processes}
        arms = {
            what: partial(seconds, partial(answer, arguments, codes[what])) for what, arguments in processes.items()
        }
        measured = in_turn(arms, config.rounds, seed=config.seed, note=note)
    medians = {what: float(np.median(taken)) for what, taken in measured.items()}
    return tuple(Answer(what=what, seconds=taken - medians[PASS]) for what, taken in medians.items() if what != PASS)
