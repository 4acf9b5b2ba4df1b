"""What commands say: progress and messages on stderr, results on stdout."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from faithfulness_plugin.messages import Voice, say

if TYPE_CHECKING:  # at run time the command that runs one imports it
    from faithfulness_plugin.results.experiment import Experiment

HOUR = 3600.0


Shown = TypeVar("Shown", bound="Lines")


class Lines:
    """Shows a progress bar on a terminal, a line per finished part elsewhere; on stderr.

    Args:
        total: parts in all.
        done: parts that are finished already.
        what: the parts' name.
        cost: what the parts that are left cost in all, in any unit, where they are not alike: the remaining time is
            then computed from it.
    """

    def __init__(self, total: int, done: int, what: str, cost: int | float | None = None) -> None:
        self.total, self.done, self.cost, self.spent = total, done, cost, 0.0
        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn() if cost is None else TextColumn("{task.fields[parts]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=Voice.quiet or not console.is_terminal,
            speed_estimate_period=24 * 3600,  # parts end in bursts: their mean over the whole run is the honest speed
        )
        length, completed = (total, done) if cost is None else (cost, 0)
        self.task = self.bar.add_task(what, total=length, completed=completed, parts=f"{done}/{total}")

    def __enter__(self: Shown) -> Shown:
        self.begun = time.monotonic()
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def tell(self, text: str) -> None:
        """Say what is going on.

        Args:
            text: one line.
        """
        self.bar.update(self.task, description=text)
        if self.bar.disable:
            say(text)

    def within(self, cost: float) -> None:
        """Move the bar within a part that is not finished.

        Args:
            cost: what is done of it, in the unit of the whole.
        """
        self.bar.update(self.task, completed=self.spent + cost)

    def advance(self, parts: int) -> None:
        """Count finished parts of which there are too many for a line each: on a terminal only.

        Args:
            parts: how many more are finished.
        """
        self.done += parts
        self.bar.update(self.task, advance=parts, parts=f"{self.done}/{self.total}")

    def show(self, text: str, parts: int = 1, cost: int | float = 0) -> None:
        """Count finished parts, and show a line about them.

        Args:
            text: the line.
            parts: how many more are finished.
            cost: what they cost, in the unit of the whole.
        """
        self.done += parts
        self.spent += cost
        if self.bar.disable:
            say(f"[{self.done}/{self.total}] {text}{self._left()}")
        else:
            completed = self.done if self.cost is None else self.spent
            self.bar.update(self.task, completed=completed, description=text, parts=f"{self.done}/{self.total}")

    def follow(
        self, experiment: "Experiment[Any, Any]", result: Any, parts: Iterable[tuple[Any, str]]
    ) -> Iterator[Any]:
        """Show the line about each part, with the remaining time.

        Args:
            experiment: counts parts and work.
            result: the result before the first part.
            parts: results and lines, as they come.

        Yields:
            The result as it grows.
        """
        done, left = experiment.progress(result)[0], experiment.work_left(result)
        for grown, line in parts:
            before = done, left
            done, left = experiment.progress(grown)[0], experiment.work_left(grown)
            if line:
                self.show(line, parts=done - before[0], cost=before[1] - left)
            yield grown

    def _left(self) -> str:
        if self.cost is None or not self.spent or self.done == self.total:
            return ""
        return f", {_in_words((time.monotonic() - self.begun) * (self.cost / self.spent - 1))} left"


def _in_words(seconds: float) -> str:
    """Write a time as people say it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def show(markdown: str) -> None:
    """Draw tables and text on a terminal, in its width; print them as Markdown elsewhere.

    Args:
        markdown: the tables.
    """
    console = Console()
    if not console.is_terminal:
        print(markdown)
        return
    from faithfulness_plugin.cli.drawn_tables import drawn

    for part in drawn(markdown, console.width):
        console.print(part)


def show_result(experiment: Any, result: Any, as_json: bool) -> None:
    """Print a result as JSON, or its experiment's tables.

    Args:
        experiment: makes the tables.
        result: complete or partial.
        as_json: print JSON.
    """
    if as_json:
        print(result.model_dump_json(indent=experiment.indent))
    else:
        show(experiment.tables(result))


def fail(message: str, code: int, *, all_processes: bool = False) -> NoReturn:
    """Say one line on stderr, and exit.

    Args:
        message: what is wrong, and what to do.
        code: the exit code.
        all_processes: say it in every process, not in the first one alone.
    """
    say(f"error: {message}", all_processes=all_processes)
    raise typer.Exit(code)


def ask_for_yes(what: str, workers: int, estimate: Callable[[], float], yes: bool) -> None:
    """Say how long it will take; past an hour, fail without --yes. An estimate that cannot be made is left out: the run
    itself will say what is wrong.

    Args:
        what: what is run.
        workers: how many processes run it.
        estimate: returns seconds.
        yes: whether --yes was passed.
    """
    try:
        time_needed = estimate()
    except (ValueError, RuntimeError, OSError):
        return
    say(f"{what} on {workers} worker{'s' * (workers > 1)}: about {_in_words(time_needed)}")
    if time_needed > HOUR and not yes:
        fail(f"that is more than an hour ({_in_words(time_needed)}): pass --yes, or take a part of it", 2)
