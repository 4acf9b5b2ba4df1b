"""The command `faithfulness`.

Exits 0, 1 (ran and failed), 2 (bad arguments, with a line that says what to do) or 130 (interrupted).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated, Any, NoReturn

import typer
from typing_extensions import override

from faithfulness_plugin.cli.lazy import Entry, LazyGroup, group
from faithfulness_plugin.cli.terminal import fail
from faithfulness_plugin.command import Interruption
from faithfulness_plugin.command import main as main
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.messages import Voice, one_line, say

CLI = "faithfulness_plugin.cli"
BARS = "TQDM_DISABLE"
"""The variable by which tqdm hides its bars."""


BENCH = {
    "run": Entry(
        f"{CLI}.suite:run",
        "train methods on layers whose mechanism is known, and score them",
        "faithfulness bench run --quick, or --method my_package.my_module:method",
    ),
    "list": Entry(
        f"{CLI}.suite:list_all", "list tasks, methods, sizes and the meaning of scores", "faithfulness bench list"
    ),
    "compare": Entry(
        f"{CLI}.results:compare",
        "show paired differences between methods, or between transcoders",
        "faithfulness bench compare out/bench/quick --against relu_tanh-none --format latex",
    ),
    "card": Entry(
        f"{CLI}.results:card",
        "show one method, or one transcoder, on a page",
        "faithfulness bench card out/bench/quick --method relu_tanh-jvp --out card.png",
    ),
    "rerun": Entry(
        f"{CLI}.results:rerun",
        "run parts of a result again, and say whether they agree",
        "faithfulness bench rerun out/bench/quick --trials 10",
    ),
    "leaderboard": Entry(
        f"{CLI}.suite:leaderboard",
        "write a page from results",
        "faithfulness bench leaderboard out/bench/standard --out out/leaderboard",
    ),
}
RENAMED = {
    "artifact": "measure PATH...",
    "language-model": "experiment real-layers",
    **{name: f"experiment {name}" for name in ("speed", "ensemble", "store", "adapter")},
    "inspection": "experiment inspection-toy` or `faithfulness experiment inspection-passage",
}
"""Commands that were among the benchmark's."""

COMMANDS = {
    "reproduce": Entry(
        f"{CLI}.reproduce:reproduce",
        "run the absolute-value experiment: table, figures, result file",
        "faithfulness reproduce --d-in 20 --n-ones 4 --density 0.08 --seeds 3 --out out/four_ones",
    ),
    "train": Entry(
        f"{CLI}.train:train",
        "train transcoders of a language model's MLPs, from a file of settings",
        "faithfulness train --print-config > settings.yaml; faithfulness train settings.yaml --out out/mine",
    ),
    "measure": Entry(
        f"{CLI}.measure:measure",
        "measure how faithful finished transcoders are to their real layer",
        "faithfulness measure out/train/transcoders/block10_coefficient0.3 --quick",
        {"block": "layer"},
    ),
    "hooks": Entry(
        f"{CLI}.hooks:hooks",
        "find out which tensors of a model a transcoder reads and writes",
        "faithfulness hooks out/train/transcoders/block10_coefficient0.3 --prompts 8",
    ),
    "inspect": Entry(
        f"{CLI}.inspect:inspect",
        "write a page of a transcoder's features",
        "faithfulness inspect out/train/transcoders/block10_coefficient0.3 --out page.html",
    ),
    "bench": Entry(f"{CLI}.app:bench", "run the benchmark of methods, and read its results"),
    "scan": Entry(
        f"{CLI}.scan:scan",
        "train a grid of toy transcoders",
        "faithfulness scan --vary repeat_frac=0.01,0.05 --vary sparsity_coefficient=0.1,0.2 --seeds 3",
    ),
    "report": Entry(
        f"{CLI}.report:report",
        "write the results page of the presets that were scanned",
        "faithfulness scan --preset pareto; faithfulness report --results out/scan --out out/report",
    ),
    "examples": Entry(
        f"{CLI}.examples:examples", "fetch the offline model and text of the examples", "faithfulness examples"
    ),
    "experiment": Entry(f"{CLI}.experiment:app", "run the repository's own measurements"),
}


def print_version(wanted: bool) -> bool:
    """Print the version and stop, where it was asked for.

    Args:
        wanted: whether --version was passed.

    Returns:
        False: it was not asked for.

    Raises:
        typer.Exit: after printing.
    """
    if wanted:
        from faithfulness_plugin.version import __version__

        print(__version__)
        raise typer.Exit
    return wanted


def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=print_version, help="Show the version")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Show only errors and warnings on stderr; may also follow a command")
    ] = False,
) -> None:
    """Options of all commands."""
    del version, quiet


@contextmanager
def _no_bars() -> Iterator[None]:
    """Hide the bars of other libraries, also in the processes that are started."""
    before = os.environ.get(BARS)
    os.environ[BARS] = "1"
    try:
        yield
    finally:
        os.environ.pop(BARS)
        if before is not None:
            os.environ[BARS] = before


class Commands(LazyGroup):
    """All commands, with the one place where an error becomes a line and an exit code."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take --quiet from wherever it stands."""
        Voice.quiet = "--quiet" in args
        return super().parse_args(ctx, [arg for arg in args if arg != "--quiet"])

    @override
    def invoke(self, ctx: Any) -> Any:
        """Run a command: 2 for what the user gave wrongly, 130 for an interruption, 1 for a failure."""
        Interruption.at_once = False
        try:
            with _no_bars() if Voice.quiet else nullcontext():
                return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            stop()
        except Exception as error:
            if Interruption.came:  # what a half imported module makes of it
                stop()
            if isinstance(error, (UsageError, ImportError, ConnectionError)):  # a missing extra, or cluster
                fail(one_line(error), 2)
            if not isinstance(error, (ValueError, RuntimeError, OSError)):
                raise
            from pydantic import ValidationError

            from faithfulness_plugin.cli.options import bad_option

            if isinstance(error, ValidationError):
                fail(bad_option(error), 2)
            fail(one_line(error), 1)
        finally:
            Interruption.at_once = True


def stop() -> NoReturn:
    """Say that the command was stopped, and exit with 130."""
    say("stopped")
    raise typer.Exit(130) from None


bench = group(LazyGroup, BENCH, "The faithfulness benchmark of methods.", RENAMED)
app = group(
    Commands,
    COMMANDS,
    "Mechanistic faithfulness of transcoders: train, measure, inspect, and compare.",
    options=options,
    add_completion=True,
)
