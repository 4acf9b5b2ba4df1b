"""What commands say: progress and messages on stderr, results on stdout."""

import sys
from typing import NoReturn

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

WIDE = 150  # columns that the full tables need


class Lines:
    """A progress bar on a terminal, a line per finished part elsewhere; on stderr."""

    def __init__(self, total: int, done: int, what: str) -> None:
        self.total, self.done = total, done
        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(what, total=total, completed=done)

    def __enter__(self) -> "Lines":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def note(self, text: str) -> None:
        """What is going on; on a terminal only."""
        self.bar.update(self.task, description=text)

    def show(self, text: str) -> None:
        """One part is finished."""
        self.done += 1
        if self.bar.disable:
            say(f"[{self.done}/{self.total}] {text}")
        else:
            self.bar.update(self.task, advance=1, description=text)


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
