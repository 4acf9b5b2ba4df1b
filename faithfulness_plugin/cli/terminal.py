"""What commands say: progress and messages on stderr, results on stdout."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from faithfulness_plugin.messages import Voice, say

if TYPE_CHECKING:  # at run time the command that runs one imports it
    from faithfulness_plugin.results.experiment import Experiment

HOUR = 3600.0


class Lines:
    """A progress bar on a terminal, a line per finished part elsewhere; on stderr.

    Args:
        total, done: parts in all, and those that are finished already.
        what: the parts' name.
        cost: what the parts that are left cost in all, in any unit, where they are not alike: the time left is then
            reckoned by cost.
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

    def __enter__(self) -> "Lines":
        self.begun = time.monotonic()
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def tell(self, text: str) -> None:
        """Say what is going on."""
        self.bar.update(self.task, description=text)
        if self.bar.disable:
            say(text)

    def advance(self, parts: int) -> None:
        """Count finished parts of which there are too many for a line each: on a terminal only."""
        self.done += parts
        self.bar.update(self.task, advance=parts, parts=f"{self.done}/{self.total}")

    def show(self, text: str, parts: int = 1, cost: int | float = 0) -> None:
        """So many parts are finished, which cost that much."""
        self.done += parts
        self.spent += cost
        if self.bar.disable:
            say(f"[{self.done}/{self.total}] {text}{self._left()}")
        else:
            advance = parts if self.cost is None else cost
            self.bar.update(self.task, advance=advance, description=text, parts=f"{self.done}/{self.total}")

    def follow(
        self, experiment: "Experiment[Any, Any]", result: Any, parts: Iterable[tuple[Any, str]]
    ) -> Iterator[Any]:
        """Yield a result as it grows, and show the line about each part with the time that is left."""
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
        return f", {in_words((time.monotonic() - self.begun) * (self.cost / self.spent - 1))} left"


def in_words(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def show(markdown: str) -> None:
    """Draw tables and text on a terminal, in its width; print them as Markdown elsewhere."""
    console = Console()
    if not console.is_terminal:
        print(markdown)
        return
    from faithfulness_plugin.cli.drawn_tables import drawn

    for part in drawn(markdown, console.width):
        console.print(part)


def show_result(experiment: Any, result: Any, as_json: bool) -> None:
    """Print a result as JSON, or its experiment's tables."""
    if as_json:
        print(result.model_dump_json(indent=experiment.indent))
    else:
        show(experiment.tables(result))


def fail(message: str, code: int, *, all_processes: bool = False) -> NoReturn:
    """One line that says what to do, and the exit code."""
    say(f"error: {message}", all_processes=all_processes)
    raise typer.Exit(code)


def ask_for_yes(what: str, workers: int, estimate: Callable[[], float], yes: bool) -> None:
    """Says how long it will take; past an hour, fails without --yes. An estimate that cannot be made is left out: the
    run itself will say what is wrong."""
    try:
        time_needed = estimate()
    except (ValueError, RuntimeError, OSError):
        return
    say(f"{what} on {workers} worker{'s' * (workers > 1)}: about {in_words(time_needed)}")
    if time_needed > HOUR and not yes:
        fail(f"that is more than an hour ({in_words(time_needed)}): pass --yes, or take a part of it", 2)
