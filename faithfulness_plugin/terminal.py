"""What commands say: progress and messages on stderr, results on stdout."""

import sys
import time
from typing import NoReturn

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

WIDE = 150  # columns that the full tables need


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
            disable=not console.is_terminal,
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

    def note(self, text: str) -> None:
        """What is going on; on a terminal only."""
        self.bar.update(self.task, description=text)

    def show(self, text: str, parts: int = 1, cost: int | float = 0) -> None:
        """So many parts are finished, which cost that much."""
        self.done += parts
        self.spent += cost
        if self.bar.disable:
            say(f"[{self.done}/{self.total}] {text}{self._left()}")
        else:
            advance = parts if self.cost is None else cost
            self.bar.update(self.task, advance=advance, description=text, parts=f"{self.done}/{self.total}")

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
    """Tables, drawn where they fit and as Markdown where they would be cut."""
    console = Console()
    if console.is_terminal and console.width >= WIDE:
        console.print(Markdown(markdown))
    else:
        print(markdown)


def say(line: str) -> None:
    """A line on stderr, at once."""
    print(line, file=sys.stderr, flush=True)


def fail(message: str, code: int) -> NoReturn:
    """One line that says what to do, and the exit code."""
    say(f"error: {message}")
    raise typer.Exit(code)
